//! What the pages of one communicator say, as plain values.

use std::collections::BTreeMap;

use myelon_recorder::{Backend, Count, ErrorCode, Late, Life, Page, Row, State};

use crate::pages::communicator;

/// One communicator.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its number, as it is written.
    pub number: String,
    pub backend: Backend,
    /// When it was looked at.
    pub now_ns: u64,
    pub opened_ns: u64,
    /// Of every rank in rank order; nothing where there is no page.
    pub seats: Vec<Option<Seat>>,
}

/// One rank.
#[derive(Clone, Debug)]
pub struct Seat {
    pub pid: u64,
    pub program: String,
    pub life: Life,
    /// It was dropped after the communicator had failed.
    pub is_closed: bool,
    pub made: u64,
    pub done: u64,
    pub deadline_ns: u64,
    pub late_ns: u64,
    /// The last calls, in their order.
    pub calls: Vec<Row>,
    /// For whom the current call waits, if that is late.
    pub late: Option<Late>,
    pub failure: Option<Failed>,
}

/// The first error of a rank.
#[derive(Clone, Debug)]
pub struct Failed {
    pub code: ErrorCode,
    pub at_ns: u64,
    pub text: String,
}

impl Chart {
    /// The communicators of `pages`, which stand in the order of their opening.
    pub fn all(pages: &[Page], now_ns: u64) -> Vec<Self> {
        let mut charts: Vec<Self> = Vec::new();
        let mut places: BTreeMap<u64, usize> = BTreeMap::new();
        for page in pages {
            let header = page.header();
            let place = *places.entry(header.communicator).or_insert_with(|| {
                charts.push(Self {
                    number: communicator(header.communicator),
                    backend: page.backend(),
                    now_ns,
                    opened_ns: header.opened_ns,
                    // What a page says is not trusted with memory.
                    seats: vec![None; header.ranks.min(64) as usize],
                });
                charts.len() - 1
            });
            if let Some(seat) = charts[place].seats.get_mut(header.rank as usize) {
                *seat = Some(Seat::of(page));
            }
        }
        charts
    }

    /// The ranks that have pages.
    pub fn seated(&self) -> impl Iterator<Item = (usize, &Seat)> {
        self.seats.iter().enumerate().filter_map(|(rank, seat)| Some((rank, seat.as_ref()?)))
    }

    /// Calls that the rank that made most has made.
    pub fn made_max(&self) -> u64 {
        self.seated().map(|(_, seat)| seat.made).max().unwrap_or(0)
    }

    /// How long a row has been as it is.
    pub fn age_ns(&self, row: &Row) -> u64 {
        let since = if row.state() == State::Running { row.started_ns } else { row.made_ns };
        self.now_ns.saturating_sub(since)
    }
}

impl Seat {
    fn of(page: &Page) -> Self {
        let header = page.header();
        let calls = page.calls();
        let current = calls.iter().find(|row| is_pending(row)).map(|row| row.number);
        let failure = page.failure();
        let failed = |it: &myelon_recorder::Failure| Failed {
            code: it.code(),
            at_ns: it.at_ns,
            text: it.text().into(),
        };
        Self {
            pid: header.pid,
            program: page.program(),
            life: page.life(),
            is_closed: page.is_closed(),
            made: page.count(Count::CallsMade),
            done: page.count(Count::CallsDone),
            deadline_ns: header.deadline_ns,
            late_ns: header.late_ns,
            late: current.and_then(|number| page.late(number)),
            failure: failure.as_ref().map(failed),
            calls,
        }
    }

    /// The call that the rank is in, or that comes next; none once it has failed, for it begins no other.
    pub fn current(&self) -> Option<&Row> {
        if self.failure.is_some() {
            return None;
        }
        self.calls.iter().find(|row| is_pending(row))
    }

    /// What is kept of call `number`.
    pub fn call(&self, number: u64) -> Option<&Row> {
        self.calls.iter().find(|row| row.holds(number))
    }

    /// What call `number` was, where that is known: of a graph only the first call is.
    pub fn word(&self, number: u64) -> Option<u64> {
        self.call(number).filter(|row| row.calls == 1 || row.number == number).map(|row| row.call)
    }
}

fn is_pending(row: &Row) -> bool {
    matches!(row.state(), State::Made | State::Running)
}
