//! JSON bodies: read within limits, and explained when they are wrong.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::task::Poll;

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Limits;
use crate::http::problem::Problem;

/// Reads a request's body, declared as JSON by its `headers`, into memory.
pub(super) async fn read<B>(headers: &HeaderMap, body: B, limits: &Limits) -> Result<Bytes, Problem>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    if !is_json(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)) {
        return Err(Problem::UnsupportedMediaType);
    }
    let declared = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > limits.body_bytes_max) {
        return Err(Problem::BodyTooLarge);
    }
    let body = pin!(Limited::new(body, limits.body_bytes_max));
    let mut collected = pin!(collect(body));
    // Mostly the body came with the head, and no timer is needed.
    let collected = match futures::poll!(&mut collected) {
        Poll::Ready(collected) => Ok(collected),
        Poll::Pending => tokio::time::timeout(limits.body_timeout, collected).await,
    };
    match collected {
        Ok(Ok(collected)) => Ok(collected),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Problem::BodyTooLarge),
        Ok(Err(_)) => Err(Problem::InvalidRequest("the body is incomplete".into())),
        Err(_) => Err(Problem::BodyTimeout),
    }
}

/// Joins the pieces of a body. One that came in one piece is handed on as it is.
async fn collect<B>(mut body: Pin<&mut B>) -> Result<Bytes, B::Error>
where
    B: HttpBody<Data = Bytes>,
{
    let Some(first) = piece(&mut body).await? else { return Ok(Bytes::new()) };
    let Some(second) = piece(&mut body).await? else { return Ok(first) };
    let mut whole = [first, second].concat();
    while let Some(next) = piece(&mut body).await? {
        whole.extend_from_slice(&next);
    }
    Ok(whole.into())
}

/// The next piece of a body, which is known to have ended once as much came as was declared.
async fn piece<B>(body: &mut Pin<&mut B>) -> Result<Option<Bytes>, B::Error>
where
    B: HttpBody<Data = Bytes>,
{
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        // Trailers mean nothing here.
        if let Ok(data) = frame?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// `application/json`, or anything that ends in `+json`, with whatever parameters.
pub(crate) fn is_json(content_type: Option<&[u8]>) -> bool {
    let Some(Ok(content_type)) = content_type.map(std::str::from_utf8) else { return false };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let ends_with = |suffix: &str| {
        essence.len() > suffix.len()
            && essence.get(essence.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    essence.eq_ignore_ascii_case("application/json") || (essence.contains('/') && ends_with("+json"))
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
            ("application/vnd.api+json", true),
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
}
