//! Coupons: created, and viewed with all their winners.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request};
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use axum::http::{Response, StatusCode};
use common::ids::CouponName;
use futures::{StreamExt, stream};
use serde::Deserialize;

use super::body::{self, Type, invalid};
use super::{Shared, ask};
use crate::problem::Problem;
use crate::receipt::coupon_path;
use crate::store;

#[derive(Deserialize)]
struct CouponBody<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    amount: i64,
}

pub(super) async fn create(state: Shared, request: Request) -> Result<Response<Body>, Problem> {
    let (parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, &state.limits).await?;
    let fields = [("name", Type::Text), ("amount", Type::Integer)];
    let body: CouponBody<'_> = body::parse(&body, &fields)?;
    let name = CouponName::new(&body.name).map_err(|rule| invalid("name", rule))?;
    let amount = i32::try_from(body.amount)
        .ok()
        .filter(|amount| *amount >= 1)
        .ok_or_else(|| invalid("amount", format_args!("must be from 1 to {}", i32::MAX)))?;
    if !ask(&state, async |connection| store::create_coupon(connection, &name, amount).await).await? {
        return Err(Problem::CouponExists);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = HeaderValue::from_str(&coupon_path(&name)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

pub(super) async fn view(
    state: Shared,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response<Body>, Problem> {
    let Path(name) = path.map_err(|_| Problem::InvalidRequest("the path is not UTF-8".into()))?;
    view_named(&state, &name).await
}

/// The path of the coupon "claim" is also that of claims.
pub(super) async fn view_one_called_claim(state: Shared) -> Result<Response<Body>, Problem> {
    view_named(&state, "claim").await
}

async fn view_named(state: &Shared, name: &str) -> Result<Response<Body>, Problem> {
    let name = CouponName::new(name).map_err(|rule| invalid("name", rule))?;
    let coupon = ask(state, async |connection| store::coupon(connection, &name).await)
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
    let winners = Winners { state: state.clone(), name, after: 0, up_to: coupon.last_position };
    // The first page before the first byte: a failure is still an answer of its own then.
    let (first, rest) = winners.next_page(head).await?;
    // Each further one when the client has taken the one before: a slow one keeps no more than a page.
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
    state: Shared,
    name: CouponName,
    after: i64,
    up_to: i64,
}

impl Winners {
    /// Appends the next page to `bytes`, and says what comes after it.
    async fn next_page(mut self, mut bytes: Vec<u8>) -> Result<(Bytes, Option<Self>), Problem> {
        let (name, after, up_to) = (&self.name, self.after, self.up_to);
        let page =
            ask(&self.state, async |connection| store::winners(connection, name, after, up_to).await).await?;
        for (n, user_id) in page.user_ids.iter().enumerate() {
            if after > 0 || n > 0 {
                bytes.push(b',');
            }
            append_text(&mut bytes, user_id);
        }
        let Some(next) = page.next() else {
            bytes.extend_from_slice(b"]}");
            return Ok((bytes.into(), None));
        };
        self.after = next;
        Ok((bytes.into(), Some(self)))
    }
}

fn append_text(bytes: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(bytes, text).expect("text is plain JSON");
}
