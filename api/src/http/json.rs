//! JSON bodies: declared as such, and explained when they are wrong.

use std::borrow::Cow;

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;

/// Checks that a body is declared as JSON, in UTF-8 and as it is.
///
/// # Errors
/// [`Problem::UnsupportedMediaType`].
pub(super) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let is_plain = encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_plain && is_json(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)) {
        Ok(())
    } else {
        Err(Problem::UnsupportedMediaType)
    }
}

/// `application/json`, or anything that ends in `+json`, with whatever parameters but another charset than UTF-8.
fn is_json(content_type: Option<&[u8]>) -> bool {
    let Some(Ok(content_type)) = content_type.map(std::str::from_utf8) else { return false };
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let ends_with = |suffix: &str| {
        essence.len() > suffix.len()
            && essence.get(essence.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some((name, value)) if name.trim_end().eq_ignore_ascii_case("charset") => {
            let value = value.trim().trim_matches('"');
            value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
        }
        _ => true,
    };
    (essence.eq_ignore_ascii_case("application/json") || (essence.contains('/') && ends_with("+json")))
        && parts.all(is_utf8)
}

/// How deeply objects and lists of a body may be nested.
const DEPTH_MAX: usize = 128;

/// A field's type, as the client is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Type {
    Text,
    Integer,
}

/// Parses a JSON object. Unknown fields are ignored.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], fields: &[(&str, Type)]) -> Result<T, Problem> {
    // A list of the fields' values would be taken for a struct as well.
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    match serde_json::from_slice(body) {
        // The parser follows unknown fields to any depth.
        Ok(_) if is_deeper_than(DEPTH_MAX, body) => {
            Err(Problem::InvalidRequest(format!("the body is nested more than {DEPTH_MAX} deep").into()))
        }
        Ok(parsed) if is_object => Ok(parsed),
        _ => Err(Problem::InvalidRequest(explain(body, fields))),
    }
}

/// Whether objects and lists are nested more deeply than that, in a body that is known to be JSON. Only a long one
/// can be.
fn is_deeper_than(max: usize, json: &[u8]) -> bool {
    if json.len() <= max {
        return false;
    }
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    json.iter().any(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = in_text,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > max
    })
}

/// What is wrong with a body that could not be parsed, in words that help who wrote it.
fn explain(body: &[u8], fields: &[(&str, Type)]) -> Cow<'static, str> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return "the body is not valid JSON".into();
    };
    let Value::Object(object) = value else { return "the body must be a JSON object".into() };
    for (name, r#type) in fields {
        let wrong = match (object.get(*name), r#type) {
            (None, _) => "is missing",
            (Some(value), Type::Text) if !value.is_string() => "must be a string",
            (Some(value), Type::Integer) if !value.is_i64() => "must be an integer",
            _ => continue,
        };
        return format!("{name} {wrong}").into();
    }
    "a field stands twice in the body".into()
}

/// The problem of a field that breaks a rule.
pub(super) fn invalid(field: &str, rule: impl std::fmt::Display) -> Problem {
    Problem::InvalidRequest(format!("{field} {rule}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Fields<'a> {
        #[serde(borrow, rename = "name")]
        _name: Cow<'a, str>,
        #[serde(rename = "amount")]
        _amount: i64,
    }

    #[test]
    fn wrong_bodies_are_explained() {
        let deep = format!(r#"{{"name":"a","amount":1,"x":{}1{}}}"#, "[".repeat(200), "]".repeat(200));
        for (body, detail) in [
            ("", "the body is not valid JSON"),
            ("{", "the body is not valid JSON"),
            (deep.as_str(), "the body is nested more than 128 deep"),
            (r#"["a",1]"#, "the body must be a JSON object"),
            ("null", "the body must be a JSON object"),
            ("{}", "name is missing"),
            (r#"{"name":1,"amount":1}"#, "name must be a string"),
            (r#"{"name":"a"}"#, "amount is missing"),
            (r#"{"name":"a","amount":"1"}"#, "amount must be an integer"),
            (r#"{"name":"a","amount":1.5}"#, "amount must be an integer"),
            (r#"{"name":"a","amount":1e400}"#, "the body is not valid JSON"),
            (r#"{"name":"a","name":"b","amount":1}"#, "a field stands twice in the body"),
        ] {
            let fields = [("name", Type::Text), ("amount", Type::Integer)];
            match parse::<Fields<'_>>(body.as_bytes(), &fields) {
                Err(Problem::InvalidRequest(explained)) => assert_eq!(explained, detail, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
    }

    #[test]
    fn unknown_fields_are_ignored_whatever_they_hold() {
        let flat = format!(r#""{}""#, r#"[{\"["#.repeat(200));
        for unknown in ["1e400", r#""\ud800""#, "[[[]]]", flat.as_str()] {
            for padding in ["", &" ".repeat(200)] {
                let body = format!(r#"{{"name":"a","amount":1,"x":{unknown}{padding}}}"#);
                let parsed = parse::<Fields<'_>>(body.as_bytes(), &[]);
                assert!(parsed.is_ok(), "{body}: {parsed:?}");
            }
        }
    }

    #[test]
    fn json_has_many_content_types() {
        for (content_type, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"; x=y", true),
            ("application/json; Charset = utf8", true),
            ("application/vnd.api+json", true),
            ("application/json; charset=latin1", false),
            ("application/json; x=y; charset=utf-16", false),
            ("application/json; charset=", false),
            ("text/json", false),
            ("text/plain", false),
            ("+json", false),
            ("", false),
        ] {
            assert_eq!(is_json(Some(content_type.as_bytes())), json, "{content_type}");
        }
        assert!(!is_json(Some(b"\xff/x+json")));
        assert!(!is_json(None));
    }

    #[test]
    fn a_body_is_not_compressed() {
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (encodings, fits) in [
            (&[][..], true),
            (&["identity"], true),
            (&["Identity", "identity"], true),
            (&["gzip"], false),
            (&["identity", "br"], false),
            (&["identity, gzip"], false),
            (&[""], false),
        ] {
            let encodings = encodings.iter().map(|name| (CONTENT_ENCODING, HeaderValue::from_static(name)));
            let headers = HeaderMap::from_iter([json.clone()]);
            let headers = encodings.fold(headers, |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            });
            assert_eq!(check(&headers).is_ok(), fits, "{headers:?}");
        }
    }
}
