//! Making and viewing coupons through the API.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::thread;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use crate::http::{Client, Target};

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

/// Makes the coupons, `stock` of each. One that exists already is used as it is. Returns their state.
///
/// # Errors
/// When the server cannot be reached, or refuses.
pub fn make_coupons(target: &Target, names: &[String], stock: u32) -> anyhow::Result<Vec<Coupon>> {
    in_parallel(target, names, |client, name| {
        let reply = client.post("/api/coupons", &json!({"name": name, "amount": stock}))?;
        match reply.status {
            201 => Ok(Coupon {
                name: name.to_owned(),
                amount: stock.into(),
                remaining: stock.into(),
                claimed_by: Vec::new(),
            }),
            409 => view(client, name, &|_| None),
            status => bail!("making the coupon {name:?} was answered with {status}: {}", text(&reply.body)),
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
    user_of: impl Fn(&str) -> Option<u32> + Sync,
) -> anyhow::Result<Vec<Coupon>> {
    in_parallel(target, names, |client, name| view(client, name, &user_of))
}

fn view(client: &mut Client, name: &str, user_of: &dyn Fn(&str) -> Option<u32>) -> anyhow::Result<Coupon> {
    let reply = client.get(&format!("/api/coupons/{}", path_segment(name)))?;
    ensure!(
        reply.status == 200,
        "asking for the coupon {name:?} was answered with {}: {}",
        reply.status,
        text(&reply.body)
    );
    let view: View<'_> =
        serde_json::from_slice(&reply.body).with_context(|| format!("the view of the coupon {name:?}"))?;
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
    one: impl Fn(&mut Client, &str) -> anyhow::Result<Coupon> + Sync,
) -> anyhow::Result<Vec<Coupon>> {
    let share = names.len().div_ceil(CLIENTS).max(1);
    let one = &one;
    thread::scope(|scope| {
        let shares = names.chunks(share).map(|names| {
            scope.spawn(move || {
                let mut client = Client::new(target.clone());
                names.iter().map(|name| one(&mut client, name)).collect::<anyhow::Result<Vec<_>>>()
            })
        });
        // All are started before the first is waited for.
        let shares = shares.collect::<Vec<_>>();
        let mut coupons = Vec::with_capacity(names.len());
        for share in shares {
            coupons.extend(share.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(coupons)
    })
}

/// A name as one segment of a path.
fn path_segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(segment, "%{byte:02X}");
        }
    }
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
