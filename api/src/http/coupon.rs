//! Coupons: created, and viewed with all their winners.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use axum::http::{HeaderMap, Response, StatusCode};
use common::ids::CouponName;
use futures::{StreamExt, stream};
use serde::Deserialize;

use super::json::{self, Type, invalid};
use super::problem::Problem;
use super::state::SharedState;
use crate::claims::receipt::coupon_path;
use crate::store::{self, PAGE_WINNERS_MAX};

/// Bytes of a page of winners, unless it is one winner alone: about what a client that does not read on makes
/// us keep, and there may be thousands.
const PAGE_BYTES_MAX: usize = 64 << 10;

/// What follows the last winner.
const LIST_END: &[u8] = b"]}";

#[derive(Deserialize)]
struct CouponBody<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    amount: i64,
}

/// `POST /api/coupons`
pub(super) async fn create(
    state: SharedState,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, Problem> {
    json::check(&headers)?;
    let fields = [("name", Type::Text), ("amount", Type::Integer)];
    let body: CouponBody<'_> = json::parse(&body, &fields)?;
    let name = CouponName::new(&body.name).map_err(|rule| invalid("name", rule))?;
    let amount = i32::try_from(body.amount)
        .ok()
        .filter(|amount| *amount >= 1)
        .ok_or_else(|| invalid("amount", format_args!("must be from 1 to {}", i32::MAX)))?;
    if !state.ask(async |connection| store::create_coupon(connection, &name, amount).await).await? {
        return Err(Problem::CouponExists);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::from_str(&coupon_path(&name)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `GET /api/coupons/{name}`
pub(super) async fn view(
    state: SharedState,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Problem> {
    let Path(name) = path.map_err(|_| Problem::InvalidRequest("the path is not UTF-8".into()))?;
    view_named(&state, &name).await
}

/// The path of the coupon "claim" is also that of claims.
pub(super) async fn view_one_called_claim(state: SharedState) -> Result<Response<Body>, Problem> {
    view_named(&state, "claim").await
}

async fn view_named(state: &SharedState, name: &str) -> Result<Response<Body>, Problem> {
    let name = CouponName::new(name).map_err(|rule| invalid("name", rule))?;
    let coupon = state
        .ask(async |connection| store::coupon(connection, &name).await)
        .await?
        .ok_or(Problem::CouponNotFound)?;
    let mut head = br#"{"name":"#.to_vec();
    append_text(&mut head, name.as_str());
    head.extend_from_slice(
        format!(
            r#","amount":{},"remaining_amount":{},"claimed_by":["#,
            coupon.amount, coupon.remaining_amount
        )
        .as_bytes(),
    );
    let winners = Winners {
        state: state.clone(),
        name,
        after: 0,
        up_to: coupon.last_position,
        count: PAGE_WINNERS_MAX,
    };
    // The first page before the first byte: a failure is still an answer of its own then.
    let (first, rest) = winners.next_page(head).await?;
    // Each further one when the client has taken most of the one before: a slow one keeps little more
    // than a page.
    let rest = stream::try_unfold(rest, |rest| async move {
        match rest {
            Some(winners) => winners.next_page(Vec::new()).await.map(Some),
            None => Ok::<_, Problem>(None),
        }
    });
    let mut response = Response::new(Body::from_stream(stream::iter([Ok(first)]).chain(rest)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The winners of a coupon, page by page. Rows are only ever added, behind the last position: the
/// pages show the moment at which the coupon was read, without a transaction that lasts as long as
/// the slowest client.
struct Winners {
    state: SharedState,
    name: CouponName,
    after: i64,
    up_to: i64,
    /// How many the next page is to hold.
    count: usize,
}

impl Winners {
    /// Appends the next page to `bytes`, and says what comes after it.
    async fn next_page(mut self, mut bytes: Vec<u8>) -> Result<(Bytes, Option<Self>), Problem> {
        let start = bytes.len();
        let page = loop {
            let Self { state, name, after, up_to, count } = &self;
            let page =
                state.ask(async |connection| store::winners(connection, name, *after, *up_to, *count).await);
            let page = page.await?;
            let fitting = append_fitting(&mut bytes, &page.user_ids, *after == 0);
            if fitting == page.user_ids.len() {
                break page;
            }
            // At which position the page ends now, only Postgres can say. Ids are rarely so long.
            bytes.truncate(start);
            self.count = fitting;
        };
        let Some(next) = page.next else {
            bytes.extend_from_slice(LIST_END);
            return Ok((bytes.into(), None));
        };
        self.after = next;
        if bytes.len() - start <= PAGE_BYTES_MAX / 2 {
            self.count = (self.count * 2).min(PAGE_WINNERS_MAX);
        }
        Ok((bytes.into(), Some(self)))
    }
}

/// Appends as many of the ids as fit into a page, one at least, and returns how many. All but the first of
/// a list have a comma before them.
fn append_fitting(bytes: &mut Vec<u8>, user_ids: &[String], begins_list: bool) -> usize {
    let start = bytes.len();
    let expected: usize = user_ids.iter().map(|id| id.len() + r#","""#.len()).sum();
    // Not twice as much, as it would grow to by itself: a slow client keeps it for long.
    bytes.reserve_exact(expected.min(PAGE_BYTES_MAX) + LIST_END.len());
    for (n, user_id) in user_ids.iter().enumerate() {
        let end = bytes.len();
        if n > 0 || !begins_list {
            bytes.push(b',');
        }
        append_text(bytes, user_id);
        if n > 0 && bytes.len() - start > PAGE_BYTES_MAX {
            bytes.truncate(end);
            return n;
        }
    }
    user_ids.len()
}

fn append_text(bytes: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(bytes, text).expect("text is plain JSON");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitting(user_ids: &[String], begins_list: bool) -> (usize, String) {
        let mut bytes = b"[".to_vec();
        let count = append_fitting(&mut bytes, user_ids, begins_list);
        (count, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_page_holds_what_fits_and_one_winner_at_least() {
        assert_eq!(fitting(&[], true), (0, "[".into()));
        let short = ["ann", "b\"b"].map(String::from);
        assert_eq!(fitting(&short, true), (2, r#"["ann","b\"b""#.into()));
        assert_eq!(fitting(&short, false), (2, r#"[,"ann","b\"b""#.into()));
        // With a comma and quotes, 64 of these fill a page to the last byte.
        let filling = vec!["x".repeat(PAGE_BYTES_MAX / 64 - 3); 65];
        let (count, bytes) = fitting(&filling, false);
        assert_eq!((count, bytes.len()), (64, 1 + PAGE_BYTES_MAX));
        assert!(bytes.ends_with("x\""));
        let (count, bytes) = fitting(&filling, true);
        assert_eq!((count, bytes.len()), (64, PAGE_BYTES_MAX));
        // What is escaped counts as it is sent.
        assert_eq!(fitting(&vec!["\"".repeat(PAGE_BYTES_MAX / 64 - 3); 65], false).0, 32);
        let long = ["x".repeat(PAGE_BYTES_MAX), "y".into()];
        assert_eq!(fitting(&long, true).0, 1);
    }
}
