//! What an operation means, in words: before somebody presses the button it is clear which way it goes, what goes down, and what is lost.

use switchback_control::ItemView;
use switchback_model::{Operation, Side, UnixMillis};

use crate::shown::span;

/// What a person is told before the button.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) direction: String,
    pub(crate) point: String,
    pub(crate) shut_down: String,
    pub(crate) lost: String,
    pub(crate) after: String,
}

/// What people call it: a failover whose direction is home is a failback. `None` is the clean-up.
pub(super) fn name_of(operation: Option<Operation>, view: &ItemView) -> String {
    let is_homewards = view.item.protection.passive() == Side::Home;
    let text = match operation {
        Some(Operation::PlannedFailover) if is_homewards => "planned failback".into(),
        Some(Operation::UnplannedFailover) if is_homewards => "failback".into(),
        Some(Operation::UnplannedFailover) => "failover".into(),
        Some(Operation::Reprotect) => "re-protect".into(),
        Some(other) => other.to_string(),
        None => "clean up what was left".to_owned(),
    };
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// From where to where.
pub(super) fn towards(view: &ItemView) -> String {
    let (active, passive) = (&view.item.active().site, &view.item.passive().site);
    match view.item.protection.passive() {
        Side::Home => format!("from {active} to {passive}, its home"),
        Side::Away => format!("from {active} to the recovery site {passive}"),
    }
}

/// What happens. `None` is the clean-up.
pub(super) fn told(now: UnixMillis, operation: Option<Operation>, view: &ItemView) -> Told {
    match operation {
        Some(
            Operation::TestFailover
            | Operation::TestFailoverCleanup
            | Operation::PlannedFailover
            | Operation::UnplannedFailover,
        ) => of_failover(operation, view),
        _ => of_others(now, operation, view),
    }
}

fn nothing() -> String {
    "nothing".into()
}

/// Of a failover, or a rehearsal of it.
fn of_failover(operation: Option<Operation>, view: &ItemView) -> Told {
    let item = &view.item;
    let (name, active, passive) = (&item.name, &item.active().site, &item.passive().site);
    match operation {
        Some(Operation::TestFailover) => Told {
            direction: format!("{}, a copy alone: {name} goes on at {active}, and goes on being replicated", towards(view)),
            point: "as chosen below".into(),
            shut_down: nothing(),
            lost: nothing(),
            after: "The copy is isolated, in the test network of the network mapping. Clean it up when you have seen it.".into(),
        },
        Some(Operation::TestFailoverCleanup) => Told {
            direction: format!("none: the copy at {passive} goes, {name} goes on at {active}"),
            point: "none".into(),
            shut_down: format!("the copy at {passive}"),
            lost: "what was written in the copy".into(),
            after: String::new(),
        },
        Some(Operation::PlannedFailover) => Told {
            direction: towards(view),
            point: "one more, made when the machine stands still".into(),
            shut_down: format!("{name} at {active}; the job verifies that it is off"),
            lost: "nothing: 0 s of data".into(),
            after: format!(
                "{name} starts at {passive}. Commit the failover when you have seen that it is well; until then it can be taken back."
            ),
        },
        _ => Told {
            direction: towards(view),
            point: "as chosen below".into(),
            shut_down: format!("{name} at {active}, if it can be reached and you leave the mark below"),
            lost: "what was written after the recovery point: each says how many seconds that is".into(),
            after: format!(
                "{name} starts at {passive}. The failover can be taken back, or another point be chosen, until it is committed."
            ),
        },
    }
}

/// Of what comes after a failover, and the rest.
fn of_others(now: UnixMillis, operation: Option<Operation>, view: &ItemView) -> Told {
    let item = &view.item;
    let (name, active, passive) = (&item.name, &item.active().site, &item.passive().site);
    let stays = || format!("none: {name} stays at {active}");
    let since = item.last_failover.map(|at| span(now.0.saturating_sub(at.0)));
    let since = since.map_or_else(
        || "what it wrote since the failover".into(),
        |span| format!("what it wrote since the failover: the last {span}"),
    );
    match operation {
        Some(Operation::ChangeRecoveryPoint) => Told {
            direction: stays(),
            point: "as chosen below".into(),
            shut_down: format!("{name} at {active}; it starts there anew"),
            lost: since,
            after: String::new(),
        },
        Some(Operation::CancelFailover) => Told {
            direction: format!("back: {name} starts at {passive} again, as it was there"),
            point: "none".into(),
            shut_down: format!("{name} at {active}"),
            lost: since,
            after: String::new(),
        },
        Some(Operation::Commit) => Told {
            direction: stays(),
            point: "the one it runs at; the others cannot be chosen any more".into(),
            shut_down: nothing(),
            lost: format!("nothing of {name}; the way back to {passive} as it was there"),
            after: format!("Nothing protects {name} until it is re-protected towards {passive}."),
        },
        Some(Operation::Disable) => Told {
            direction: stays(),
            point: "all are deleted".into(),
            shut_down: nothing(),
            lost: format!("nothing of {name}; its recovery points, and so every way to fail over"),
            after: format!("{name} is not protected any more."),
        },
        None => Told {
            direction: stays(),
            point: "none".into(),
            shut_down: format!("what {name} left behind for good: {}", left_behind(view)),
            lost: "those machines, with their disks, where Switchback made them".into(),
            after: format!("{name} and its replication go on."),
        },
        Some(_) => Told {
            direction: towards(view),
            point: "those there are stay".into(),
            shut_down: nothing(),
            lost: nothing(),
            after: "Everything is compared, and what differs is sent again.".into(),
        },
    }
}

fn left_behind(view: &ItemView) -> String {
    let left = view.item.left_behind.iter();
    let left = left.map(|left| format!("{} at {}", left.id.as_deref().unwrap_or("a machine"), left.site));
    left.collect::<Vec<_>>().join(", ")
}
