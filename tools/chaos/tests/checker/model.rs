//! A model of the system that keeps every promise, driven by chance: clients, a queue that may lose its tail,
//! and workers that apply it. What it records is a valid history by construction.

use std::collections::BTreeMap;

use chaos::history::{
    Answer, Claim, ClaimRow, CouponRow, CouponView, Endpoint, Event, EventKind, Failure, FinalState, Journal,
    Message, Op, OpId, PartitionEnd, Response, Round,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::example::{at, message, op, status, timed_out, with, won};

const PARTITIONS: u32 = 2;

/// How a run may vary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) coupons: usize,
    pub(crate) users: usize,
    pub(crate) steps: usize,
    /// Whether streams may lose their tails.
    pub(crate) losses: bool,
}

/// A request that is under way.
#[derive(Debug)]
struct Flight {
    op: Op,
    claim: Option<Claim>,
    published: bool,
    /// What became of the claim when it was last applied, since it was published for this request.
    outcome: Option<Answer>,
}

#[derive(Debug, Default)]
struct Partition {
    generation: u64,
    /// Everything ever seen, older generations included.
    journal: Vec<Message>,
    stream: Vec<Message>,
    applied: usize,
}

pub(crate) struct Model {
    rng: StdRng,
    shape: Shape,
    clock_us: u64,
    next_id: u64,
    amounts: BTreeMap<String, i64>,
    rows: BTreeMap<String, Vec<ClaimRow>>,
    partitions: Vec<Partition>,
    flights: Vec<Flight>,
    /// Requests whose chain has no definite answer and nothing under way.
    open: Vec<Op>,
    ops: Vec<Op>,
    events: Vec<Event>,
}

fn coupon_name(number: usize) -> String {
    format!("coupon {number}")
}

fn partition_of(coupon: &str) -> usize {
    coupon.bytes().map(usize::from).sum::<usize>() % PARTITIONS as usize
}

/// A whole round.
pub(crate) fn run(seed: u64, shape: Shape) -> Round {
    let mut model = Model {
        rng: StdRng::seed_from_u64(seed),
        shape,
        clock_us: 1,
        next_id: 1,
        amounts: BTreeMap::new(),
        rows: BTreeMap::new(),
        partitions: (0..PARTITIONS).map(|_| Partition { generation: 1, ..Partition::default() }).collect(),
        flights: Vec::new(),
        open: Vec::new(),
        ops: Vec::new(),
        events: vec![at(0, EventKind::RoundBegin { round: 1, seed: 0 })],
    };
    for _ in 0..shape.steps {
        model.step();
    }
    model.finish()
}

impl Model {
    fn now(&mut self) -> u64 {
        self.clock_us += 1;
        self.clock_us
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn step(&mut self) {
        match self.rng.random_range(0..10) {
            0..3 => self.start(),
            3..6 => self.publish(),
            6..8 => self.apply(),
            8 if self.shape.losses && self.chance(15) => self.lose_tail(),
            // What is applied again after a loss would find stock that was not there when it was refused.
            8 if !self.shape.losses && self.chance(4) => self.raise(),
            _ => self.end(),
        }
    }

    fn start(&mut self) {
        let times = (self.now(), 0);
        let id = self.next_id;
        self.next_id += 1;
        if !self.open.is_empty() && self.chance(50) {
            let before = self.open.swap_remove(self.rng.random_range(0..self.open.len()));
            let attempt = before.attempt + 1;
            let follows = Some(before.id);
            let op = Op { id: OpId(id), start_us: times.0, attempt, follows, ..before };
            return self.fly(op);
        }
        let coupon = coupon_name(self.rng.random_range(0..self.shape.coupons));
        let user = format!("user {}", self.rng.random_range(0..self.shape.users));
        let roll = self.rng.random_range(0..20);
        let key = self.chance(50).then(|| format!("key {}", self.rng.random_range(0..3)));
        let amount = self.rng.random_range(1..6);
        let settles = self.chance(80);
        let endpoint = match roll {
            0..3 => Endpoint::Create,
            3 => Endpoint::Show,
            4 => Endpoint::Lookup,
            _ => Endpoint::Claim,
        };
        let op = with(op(id, endpoint, &coupon, times, timed_out()), |op| {
            op.settles = settles;
            match endpoint {
                Endpoint::Create => op.amount = Some(amount),
                Endpoint::Show => {}
                Endpoint::Lookup => (op.user, op.settles) = (Some(user), false),
                Endpoint::Claim => (op.user, op.key) = (Some(user), key),
            }
        });
        self.fly(op);
    }

    fn fly(&mut self, op: Op) {
        let claim = (op.endpoint == Endpoint::Claim).then(|| {
            let user = op.user.clone().expect("claims have users");
            let claim_id = match &op.key {
                Some(key) => format!("{key}/{user}/{}", op.coupon),
                None => format!("random {}", op.id.0),
            };
            Claim { claim_id, coupon: op.coupon.clone(), user }
        });
        self.flights.push(Flight { op, claim, published: false, outcome: None });
    }

    /// Publishes a batch of claims that are under way.
    ///
    /// Where streams lose their tails, a claim of a coupon that is not there yet is refused at once. Else a
    /// replay could let it win after its client was told that there is no such coupon.
    fn publish(&mut self) {
        if self.shape.losses {
            for flight in self.flights.iter_mut().filter(|flight| flight.claim.is_some()) {
                if !flight.published && !self.amounts.contains_key(&flight.op.coupon) {
                    (flight.published, flight.outcome) = (true, Some(status(404, "coupon_not_found")));
                }
            }
        }
        let batch = self.rng.random_range(1..4);
        let partition = self.rng.random_range(0..PARTITIONS as usize);
        let claims: Vec<Claim> = self
            .flights
            .iter_mut()
            .filter(|flight| !flight.published)
            .filter(|flight| partition_of(&flight.op.coupon) == partition)
            .filter_map(|flight| {
                let claim = flight.claim.clone()?;
                flight.published = true;
                Some(claim)
            })
            .take(batch)
            .collect();
        if claims.is_empty() {
            return;
        }
        // Copied claims could win late just like replayed ones, if their coupon was not there at first.
        let all_there = claims.iter().all(|claim| self.amounts.contains_key(&claim.coupon));
        let copies = if self.chance(10) && all_there { 2 } else { 1 };
        if copies > 1 {
            let at_us = self.now();
            self.events.push(at(at_us, EventKind::Injected { claims: claims.clone(), copies: true }));
        }
        let at = &mut self.partitions[partition];
        for _ in 0..copies {
            let sequence = at.stream.len() as u64 + 1;
            let message = Message { claims: claims.clone(), ..message(at.generation, sequence, "", &[]) };
            at.stream.push(message.clone());
            at.journal.push(message);
        }
    }

    fn apply(&mut self) {
        let partition = self.rng.random_range(0..PARTITIONS as usize);
        self.apply_next(partition);
    }

    fn apply_next(&mut self, partition: usize) -> bool {
        let at = &mut self.partitions[partition];
        let Some(message) = at.stream.get(at.applied).cloned() else { return false };
        at.applied += 1;
        for claim in message.claims {
            let outcome = self.decide(&claim);
            for flight in self.flights.iter_mut().filter(|flight| flight.published) {
                if flight.claim.as_ref() == Some(&claim) {
                    flight.outcome = Some(outcome.clone());
                }
            }
        }
        true
    }

    fn decide(&mut self, claim: &Claim) -> Answer {
        let Some(amount) = self.amounts.get(&claim.coupon) else { return status(404, "coupon_not_found") };
        let rows = self.rows.entry(claim.coupon.clone()).or_default();
        match rows.iter().find(|row| row.user == claim.user) {
            Some(row) if row.claim_id == claim.claim_id => won(&row.claim_id, row.position as u64),
            Some(_) => status(409, "already_claimed"),
            None if rows.len() as i64 >= *amount => status(400, "sold_out"),
            None => {
                let position = rows.len() as i64 + 1;
                rows.push(crate::example::row(&claim.coupon, &claim.user, &claim.claim_id, position));
                won(&claim.claim_id, position as u64)
            }
        }
    }

    /// Raises a coupon's stock by hand.
    fn raise(&mut self) {
        let coupon = coupon_name(self.rng.random_range(0..self.shape.coupons));
        let by = self.rng.random_range(1..4);
        let begin_us = self.now();
        let at_us = self.now();
        if let Some(amount) = self.amounts.get_mut(&coupon) {
            *amount += by;
            self.events.push(at(at_us, EventKind::StockRaised { coupon, by, begin_us, certain: true }));
        }
    }

    /// Sets a stream back; workers notice and start over.
    fn lose_tail(&mut self) {
        let partition = self.rng.random_range(0..PARTITIONS as usize);
        let kept = self.rng.random_range(0..=self.partitions[partition].stream.len());
        let at = &mut self.partitions[partition];
        at.generation += 1;
        at.stream.truncate(kept);
        at.applied = 0;
        for message in &mut at.stream {
            message.generation = at.generation;
        }
        at.journal.extend(at.stream.iter().cloned());
    }

    fn end(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let flight = self.flights.swap_remove(self.rng.random_range(0..self.flights.len()));
        self.end_flight(flight, false);
    }

    fn end_flight(&mut self, flight: Flight, healthy: bool) {
        let mut op = flight.op;
        let answer = match op.endpoint {
            Endpoint::Create => Some(self.create(&op)),
            Endpoint::Show => Some(self.show(&op.coupon)),
            Endpoint::Lookup => Some(self.look_up(&op)),
            Endpoint::Claim => flight.outcome,
        };
        op.end_us = self.now();
        let troubled = !healthy && self.chance(25);
        op.answer = match answer {
            Some(answer) if !troubled => answer,
            _ => match self.rng.random_range(0..4) {
                0 => status(503, ""),
                1 if op.endpoint == Endpoint::Claim => status(202, "pending"),
                2 => Answer::Failed { how: Failure::Broken, detail: "reset".to_owned() },
                _ => timed_out(),
            },
        };
        if op.settles && !op.verdict().is_definite() {
            self.open.push(op.clone());
        }
        self.ops.push(op);
    }

    fn create(&mut self, op: &Op) -> Answer {
        if self.amounts.contains_key(&op.coupon) {
            return status(409, "coupon_exists");
        }
        self.amounts.insert(op.coupon.clone(), op.amount.map_or(1, |amount| amount as i64));
        status(201, "")
    }

    fn show(&self, coupon: &str) -> Answer {
        let Some(amount) = self.amounts.get(coupon) else { return status(404, "coupon_not_found") };
        let rows = self.rows.get(coupon).map(Vec::as_slice).unwrap_or_default();
        let claimed_by: Vec<String> = rows.iter().map(|row| row.user.clone()).collect();
        let remaining = *amount as u64 - claimed_by.len() as u64;
        let view = CouponView { amount: *amount as u64, remaining, claimed_by };
        Answer::Response(Response { status: 200, view: Some(view), ..Response::default() })
    }

    fn look_up(&self, op: &Op) -> Answer {
        if !self.amounts.contains_key(&op.coupon) {
            return status(404, "coupon_not_found");
        }
        let mut rows = self.rows.get(&op.coupon).into_iter().flatten();
        match rows.find(|row| Some(&row.user) == op.user.as_ref()) {
            Some(row) => won(&row.claim_id, row.position as u64),
            None => status(404, "claim_not_found"),
        }
    }

    /// Heals: everything is published, applied and answered, and every open chain goes on until it is settled.
    fn finish(mut self) -> Round {
        let healed_us = self.now();
        loop {
            while let Some(op) = self.open.pop() {
                let (start_us, id) = (self.now(), self.next_id);
                self.next_id += 1;
                let (attempt, follows) = (op.attempt + 1, Some(op.id));
                self.fly(Op { id: OpId(id), start_us, attempt, follows, ..op });
            }
            if self.flights.is_empty() {
                break;
            }
            while self.flights.iter().any(|flight| flight.claim.is_some() && !flight.published) {
                self.publish();
            }
            for partition in 0..PARTITIONS as usize {
                while self.apply_next(partition) {}
            }
            for flight in std::mem::take(&mut self.flights) {
                self.end_flight(flight, true);
            }
        }
        for partition in 0..PARTITIONS as usize {
            while self.apply_next(partition) {}
        }
        let ended_us = self.now();
        self.into_round(healed_us, ended_us)
    }

    fn into_round(mut self, healed_us: u64, ended_us: u64) -> Round {
        let coupons = self.amounts.iter().map(|(name, amount)| CouponRow {
            name: name.clone(),
            amount: *amount,
            remaining: amount - self.rows.get(name).map_or(0, |rows| rows.len() as i64),
            partition: partition_of(name) as u32,
        });
        let end = |(partition, at): (u32, &Partition)| PartitionEnd {
            partition,
            generation: at.generation,
            cursor: at.applied as u64,
            stream_last: Some(at.stream.len() as u64),
        };
        self.events.push(at(healed_us, EventKind::RoundHealed { round: 1 }));
        self.events.push(at(ended_us, EventKind::RoundQuiet { round: 1 }));
        self.events.push(at(ended_us, EventKind::RoundEnd { round: 1 }));
        let state = FinalState {
            coupons: coupons.collect(),
            partitions: (0..).zip(&self.partitions).map(end).collect(),
            claims: self.rows.into_values().flatten().collect(),
            journals: (0..)
                .zip(self.partitions)
                .map(|(partition, at)| Journal {
                    partition,
                    complete: true,
                    doubtful: false,
                    discarded: 0,
                    messages: at.journal,
                })
                .collect(),
            ..FinalState::default()
        };
        Round { number: 1, seed: 0, ops: self.ops, events: self.events, state }
    }
}
