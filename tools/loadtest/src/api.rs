//! Making and viewing coupons through the API.

use std::borrow::Cow;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use client::{Bytes, Connection, Limits, Method, Response};
use futures::future::try_join_all;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::target::Target;

/// The largest body is that of a coupon with tens of millions of claims. One with a million takes seconds on a slow
/// server.
const LIMITS: Limits = Limits { connect: TIMEOUT, body_bytes_max: 1 << 30 };
const TIMEOUT: Duration = Duration::from_secs(60);

/// Coupons made or viewed at a time: enough to fill a server's group commits.
const CLIENTS: usize = 16;

/// A coupon as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coupon {
    /// Its name.
    pub name: String,
    /// How many there were.
    pub amount: u64,
    /// How many are left; negative if the server says so.
    pub remaining: i64,
    /// Who has claimed, in the order of the claims: the index of a user of this run, or `None` for anybody else.
    pub claimed_by: Vec<Option<u32>>,
}

#[derive(Deserialize)]
struct View<'a> {
    amount: u64,
    remaining_amount: i64,
    #[serde(borrow)]
    claimed_by: Vec<Cow<'a, str>>,
}

/// A connection to one server of the API, for setting up and checking.
#[derive(Debug)]
pub struct Client<'a> {
    target: &'a Target,
    connection: Connection,
}

impl<'a> Client<'a> {
    /// A client for `target`, not connected yet.
    ///
    /// # Errors
    /// When the host's name has no address.
    pub fn new(target: &'a Target) -> anyhow::Result<Self> {
        Ok(Self { target, connection: Connection::new(target.resolve()?, LIMITS) })
    }

    /// Sends `body` to `path`, or asks for it without one. The path is encoded already.
    ///
    /// # Errors
    /// When the server cannot be reached or does not answer in HTTP.
    pub async fn send(&mut self, path: &str, body: Option<&Value>) -> anyhow::Result<Response<Bytes>> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let what = format!("{method} {path}");
        let request = client::request(method, &self.target.path(path), &self.target.authority(), body)?;
        self.connection.send(request, TIMEOUT).await.context(what)
    }
}

/// Makes the coupons, `stock` of each. One that exists already is used as it is. Returns their state.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub fn make_coupons(target: &Target, names: &[String], stock: u32) -> anyhow::Result<Vec<Coupon>> {
    in_parallel(target, names, async |client, name| {
        let reply = client.send("/api/coupons", Some(&json!({"name": name, "amount": stock}))).await?;
        match reply.status().as_u16() {
            201 => Ok(Coupon {
                name: name.to_owned(),
                amount: stock.into(),
                remaining: stock.into(),
                claimed_by: Vec::new(),
            }),
            409 => view(client, name, &|_| None).await,
            status => bail!("making the coupon {name:?} was answered with {status}: {}", text(reply.body())),
        }
    })
}

/// Asks for the coupons; `user_of` recognizes this run's users.
///
/// # Errors
/// When the server cannot be reached, or does not show a coupon.
pub fn view_coupons(
    target: &Target,
    names: &[String],
    user_of: impl Fn(&str) -> Option<u32>,
) -> anyhow::Result<Vec<Coupon>> {
    in_parallel(target, names, async |client, name| view(client, name, &user_of).await)
}

async fn view(
    client: &mut Client<'_>,
    name: &str,
    user_of: &dyn Fn(&str) -> Option<u32>,
) -> anyhow::Result<Coupon> {
    let reply = client.send(&format!("/api/coupons/{}", path_segment(name)), None).await?;
    let (status, body) = (reply.status().as_u16(), reply.body());
    ensure!(status == 200, "asking for the coupon {name:?} was answered with {status}: {}", text(body));
    let view: View<'_> =
        serde_json::from_slice(body).with_context(|| format!("the view of the coupon {name:?}"))?;
    Ok(Coupon {
        name: name.to_owned(),
        amount: view.amount,
        remaining: view.remaining_amount,
        claimed_by: view.claimed_by.iter().map(|id| user_of(id)).collect(),
    })
}

/// Calls `one` for every name, a few at a time, each with a connection of its own. Keeps the order.
fn in_parallel(
    target: &Target,
    names: &[String],
    one: impl AsyncFn(&mut Client<'_>, &str) -> anyhow::Result<Coupon>,
) -> anyhow::Result<Vec<Coupon>> {
    let share = names.len().div_ceil(CLIENTS).max(1);
    let shares = names.chunks(share).map(async |names| {
        let mut client = Client::new(target)?;
        let mut coupons = Vec::with_capacity(names.len());
        for name in names {
            coupons.push(one(&mut client, name).await?);
        }
        anyhow::Ok(coupons)
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(try_join_all(shares))?.concat())
}

/// All but what never has to be encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A name as one segment of a path.
fn path_segment(name: &str) -> String {
    let segment = utf8_percent_encode(name, ENCODED).to_string();
    // Dots alone would be taken for steps in the path.
    if segment.bytes().all(|byte| byte == b'.') { segment.replace('.', "%2E") } else { segment }
}

fn text(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&body[..body.len().min(500)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_for_a_path() {
        for (name, encoded) in
            [("PROMO_1", "PROMO_1"), ("a/b c", "a%2Fb%20c"), ("é", "%C3%A9"), ("..", "%2E%2E")]
        {
            assert_eq!(path_segment(name), encoded);
        }
    }
}
