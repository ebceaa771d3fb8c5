//! The editor of a recovery plan. Each button is a small form of its own that changes one thing and comes back to the same place, so that it works with the keyboard alone and
//! without a script. With one (`plan.js`), machines and groups are also dragged to where they belong, which sends the same kind of form. The API takes the whole plan each time.
//!
//! Invariant: a form names what it showed (`seen`): two people at one plan do not undo each other's work unawares.

use askama::Template;
use switchback_api::plan_groups;
use switchback_control::Control;
use switchback_model::{AccessRole, JobId, ObjectName, PlanAction, PlanGroup, RecoveryPlan};

use super::{check_mark, describe, mark_of, plan_of};
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::Visit;

#[derive(Template)]
#[template(path = "plan_edit.html")]
struct Page {
    frame: Frame,
    name: ObjectName,
    seen: String,
    job: Option<JobId>,
    groups: Vec<Group>,
    /// Protected machines between the plan's sites that are not in it.
    free: Vec<ObjectName>,
}

struct Group {
    number: usize,
    is_first: bool,
    is_last: bool,
    is_empty: bool,
    machines: Vec<ObjectName>,
    /// Before and after its machines.
    places: [Actions; 2],
}

struct Actions {
    place: Place,
    lines: Vec<String>,
}

/// Where in a group an action is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Before,
    After,
}

impl Place {
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Before, Self::After].into_iter().find(|place| place.as_str() == name)
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }

    /// The actions there.
    pub(super) const fn of(self, group: &mut PlanGroup) -> &mut Vec<PlanAction> {
        match self {
            Self::Before => &mut group.start_actions,
            Self::After => &mut group.end_actions,
        }
    }
}

/// `GET /portal/plans/{plan}/edit`.
pub(super) fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let plan = plan_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "editing a recovery plan")?;
    let last = plan.groups.len();
    let lines = |actions: &[PlanAction]| actions.iter().map(|action| describe(action, &plan)).collect();
    let groups = (1..).zip(&plan.groups).map(|(number, group)| Group {
        number,
        is_first: number == 1,
        is_last: number == last,
        is_empty: *group == PlanGroup::default(),
        machines: group.machines.clone(),
        places: [
            Actions { place: Place::Before, lines: lines(&group.start_actions) },
            Actions { place: Place::After, lines: lines(&group.end_actions) },
        ],
    });
    let is_in = |name: &ObjectName| plan.groups.iter().any(|group| group.machines.contains(name));
    let items = control.protected()?;
    let mut free: Vec<ObjectName> = items
        .iter()
        .filter(|item| item.home.site == plan.home_site && item.away.site == plan.away_site)
        .map(|item| item.name.clone())
        .filter(|name| !is_in(name))
        .collect();
    free.sort();
    let page = Page {
        frame: visit.frame(Tab::Plans, format!("Edit {}", plan.name)),
        seen: mark_of(&plan.groups),
        job: plan.job,
        groups: groups.collect(),
        free,
        name: plan.name,
    };
    Ok(page.render()?)
}

/// `POST /portal/plans/{plan}/edit`: one thing is another way.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let mut plan = plan_of(control, visit)?;
    check_mark(visit, &mark_of(&plan.groups), &plan.name)?;
    let at = change(&mut plan.groups, visit)?;
    Ok(send(visit, &plan, at))
}

/// The whole plan to the API; then back to a group of it.
pub(super) fn send(visit: &Visit, plan: &RecoveryPlan, group: usize) -> Act {
    let groups = plan_groups(&visit.vault, plan, &[]);
    let there = Then::To(format!("/portal/plans/{}/edit#group-{}", plan.name, group + 1));
    Act::patch(visit.vault.plan(&plan.name), serde_json::json!({ "groups": groups }), there)
}

/// A number of the form, from 1, as an index below `len`.
pub(super) fn index(text: &str, len: usize, what: &str) -> Result<usize, Failure> {
    let number: Option<usize> = text.parse().ok();
    let index = number.and_then(|number| number.checked_sub(1)).filter(|index| *index < len);
    index.ok_or_else(|| Failure::invalid(format!("the plan has no such {what}: {text:?}")))
}

/// Makes the change that a form asks for; where to look at then.
fn change(groups: &mut Vec<PlanGroup>, visit: &Visit) -> Result<usize, Failure> {
    let wanted = visit.field("do");
    if wanted == "add-group" {
        groups.push(PlanGroup::default());
        return Ok(groups.len() - 1);
    }
    let at = index(visit.field("group"), groups.len(), "group")?;
    match wanted {
        "group-up" | "group-down" => move_in(groups, at, wanted == "group-up"),
        "place-group" => {
            let to = index(visit.field("to"), groups.len(), "group")?;
            let group = groups.remove(at);
            groups.insert(to, group);
            Ok(to)
        }
        "remove-group" if groups[at] == PlanGroup::default() => {
            groups.remove(at);
            Ok(at.saturating_sub(1))
        }
        "remove-group" => Err(Failure::invalid("the group is not empty")
            .remedy("move or remove its machines and actions first")),
        "add-machine" => {
            let name = visit.field("machine");
            groups[at].machines.push(name.parse().map_err(|_| Failure::not_found("machine", name))?);
            Ok(at)
        }
        "machine-up" | "machine-down" | "remove-machine" | "place-machine" => {
            let to = match wanted {
                "machine-up" => at.checked_sub(1),
                "machine-down" => Some(at + 1).filter(|to| *to < groups.len()),
                "place-machine" => Some(index(visit.field("to"), groups.len(), "group")?),
                _ => return remove_machine(&mut groups[at], visit.field("machine")).map(|_| at),
            };
            move_machine(groups, at, to, visit.field("machine"))
        }
        "action-up" | "action-down" | "remove-action" => {
            let place =
                Place::named(visit.field("place")).ok_or_else(|| Failure::invalid("before or after?"))?;
            change_action(&mut groups[at], place, wanted, visit.field("index")).map(|()| at)
        }
        other => Err(Failure::not_found("change", other)),
    }
}

/// One place up or down; at the end it stays.
fn move_in<T>(list: &mut [T], at: usize, up: bool) -> Result<usize, Failure> {
    let to = if up { at.saturating_sub(1) } else { (at + 1).min(list.len() - 1) };
    list.swap(at, to);
    Ok(to)
}

fn remove_machine(group: &mut PlanGroup, name: &str) -> Result<ObjectName, Failure> {
    let found = group.machines.iter().position(|machine| machine.as_str() == name);
    let found = found.ok_or_else(|| Failure::not_found("machine of this group", name))?;
    Ok(group.machines.remove(found))
}

/// All machines of a group go together, so one moves from group to group.
fn move_machine(
    groups: &mut [PlanGroup],
    at: usize,
    to: Option<usize>,
    name: &str,
) -> Result<usize, Failure> {
    let to = to.ok_or_else(|| Failure::invalid("there is no group in that direction").remedy("add one"))?;
    let machine = remove_machine(&mut groups[at], name)?;
    groups[to].machines.push(machine);
    Ok(to)
}

/// An action moves among those of its place, and past the machines into the other place.
fn change_action(group: &mut PlanGroup, place: Place, wanted: &str, number: &str) -> Result<(), Failure> {
    let actions = place.of(group);
    let at = index(number, actions.len(), "action")?;
    let last = actions.len() - 1;
    match (wanted, place) {
        ("remove-action", _) => {
            actions.remove(at);
        }
        ("action-up", Place::After) if at == 0 => {
            let action = actions.remove(0);
            group.start_actions.push(action);
        }
        ("action-down", Place::Before) if at == last => {
            let action = actions.remove(last);
            group.end_actions.insert(0, action);
        }
        _ => {
            move_in(actions, at, wanted == "action-up")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use switchback_model::{ActionKind, PlanAction, PlanGroup};

    use super::{Place, change_action, index, move_in, move_machine};

    fn action(name: &str) -> PlanAction {
        let action = ActionKind::Delay { seconds: 1 };
        PlanAction { name: name.into(), towards: Vec::new(), at_test: false, action }
    }

    fn shown(group: &PlanGroup) -> String {
        let names =
            |actions: &[PlanAction]| actions.iter().map(|action| action.name.as_str()).collect::<String>();
        format!("{}|{}", names(&group.start_actions), names(&group.end_actions))
    }

    #[test]
    fn an_action_moves_past_the_machines_and_not_out_of_its_group() {
        let mut group = PlanGroup {
            start_actions: vec![action("a"), action("b")],
            end_actions: vec![action("c")],
            ..PlanGroup::default()
        };
        let steps = [
            (Place::Before, "action-up", "2", "ba|c"),
            (Place::Before, "action-up", "1", "ba|c"),
            (Place::Before, "action-down", "2", "b|ac"),
            (Place::After, "action-down", "1", "b|ca"),
            (Place::After, "action-down", "2", "b|ca"),
            (Place::After, "action-up", "1", "bc|a"),
            (Place::After, "remove-action", "1", "bc|"),
        ];
        for (place, wanted, number, expected) in steps {
            change_action(&mut group, place, wanted, number).unwrap();
            assert_eq!(shown(&group), expected, "{wanted} {number}");
        }
        for number in ["0", "3", "", "-1", "x"] {
            assert!(change_action(&mut group, Place::Before, "action-up", number).is_err(), "{number:?}");
        }
    }

    #[test]
    fn machines_and_groups_move_within_the_plan() {
        let group = |name: &str| PlanGroup { machines: vec![name.parse().unwrap()], ..PlanGroup::default() };
        let mut groups = vec![group("a"), group("b")];
        assert_eq!(move_machine(&mut groups, 0, Some(1), "a").unwrap(), 1);
        assert_eq!((groups[0].machines.len(), groups[1].machines.len()), (0, 2));
        assert!(move_machine(&mut groups, 1, None, "a").is_err());
        assert!(move_machine(&mut groups, 0, Some(1), "a").is_err(), "it is in the other group");
        assert_eq!(move_in(&mut groups, 1, true).unwrap(), 0);
        assert_eq!(move_in(&mut groups, 1, false).unwrap(), 1);
        assert_eq!(groups[0].machines.len(), 2);
        assert_eq!(index("2", 2, "group").unwrap(), 1);
    }
}
