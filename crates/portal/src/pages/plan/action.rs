//! The form of an action of a recovery plan: a new one, or one that is there.

use switchback_control::Control;
use switchback_model::{AccessRole, ActionKind, PlanAction, RecoveryPlan, Side};

use super::edit::{Place, index, send};
use super::{check_mark, mark_of, plan_of};
use crate::action::Act;
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::visit::Visit;

/// Seconds that a script may take when nothing is said.
const SCRIPT_LIMIT_S: &str = "600";

/// What there is: as the address says it, and what people read.
pub(super) const fn kinds() -> [(&'static str, &'static str); 4] {
    [
        ("manual", "Manual step"),
        ("server-script", "Script on the configuration server"),
        ("guest-script", "Script in a machine"),
        ("delay", "Wait"),
    ]
}

const fn kind_of(action: &ActionKind) -> &'static str {
    match action {
        ActionKind::Manual { .. } => "manual",
        ActionKind::ServerScript { .. } => "server-script",
        ActionKind::GuestScript { .. } => "guest-script",
        ActionKind::Delay { .. } => "delay",
    }
}

/// Group, place, and which one there; `None`: a new one.
fn place_of(visit: &Visit, plan: &mut RecoveryPlan) -> Result<(usize, Place, Option<usize>), Failure> {
    let group = index(visit.query("group"), plan.groups.len(), "group")?;
    let place = Place::named(visit.query("place"))
        .ok_or_else(|| Failure::invalid("before or after its machines?"))?;
    let number = visit.query("index");
    let len = place.of(&mut plan.groups[group]).len();
    let at = if number.is_empty() { None } else { Some(index(number, len, "action")?) };
    Ok((group, place, at))
}

/// `GET /portal/plans/{plan}/edit/action?group=1&place=before&kind=manual`, or `&index=1` for one that is there.
pub(super) fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let mut plan = plan_of(control, visit)?;
    visit.needs(AccessRole::Contributor, "editing a recovery plan")?;
    let seen = mark_of(&plan.groups);
    let (group, place, at) = place_of(visit, &mut plan)?;
    let before = at.map(|at| place.of(&mut plan.groups[group])[at].clone());
    let kind = before.as_ref().map_or_else(|| visit.query("kind"), |action| kind_of(&action.action));
    let known = kinds().into_iter().find(|(known, _)| *known == kind);
    let (kind, title) = known.ok_or_else(|| Failure::not_found("kind of action", kind))?;
    let where_ = if place == Place::Before { "before" } else { "after" };
    let title = format!("{title}, {where_} group {} of {}", group + 1, plan.name);
    let back = format!("/portal/plans/{}/edit#group-{}", plan.name, group + 1);
    let name = before.as_ref().map_or("", |action| action.name.as_str());
    let mut form = Form::new(visit.frame(Tab::Plans, title), "Keep it", back);
    form = form.field(Field::hidden("seen", seen)).field(Field::hidden("kind", kind));
    form = form.field(Field::line("name", "Name").value(name));
    for field in fields(kind, before.as_ref().map(|action| &action.action), &plan) {
        form = form.field(field);
    }
    let towards = match before.as_ref().map(|action| action.towards.as_slice()) {
        Some([Side::Home]) => "home",
        Some([Side::Away]) => "away",
        _ => "both",
    };
    let directions = [
        ("both", "in both directions".to_owned()),
        ("away", format!("only at failovers to {}", plan.away_site)),
        ("home", format!("only at failbacks to {}", plan.home_site)),
    ];
    let at_test = before.is_some_and(|action| action.at_test);
    form.field(Field::choice("towards", "Done", directions).value(towards))
        .field(Field::check("at-test", "Also at test failovers", at_test))
        .show()
}

fn fields(kind: &str, before: Option<&ActionKind>, plan: &RecoveryPlan) -> Vec<Field> {
    let (script, limit, machine) = match before {
        Some(ActionKind::ServerScript { script, limit_s }) => {
            (script.clone(), limit_s.to_string(), String::new())
        }
        Some(ActionKind::GuestScript { script, limit_s, machine }) => {
            (script.clone(), limit_s.to_string(), machine.to_string())
        }
        _ => (String::new(), SCRIPT_LIMIT_S.to_owned(), String::new()),
    };
    let script = |hint: &str| {
        let limit = Field::line("limit", "Seconds it may take").value(limit.clone());
        vec![Field::line("script", "File").value(script.clone()).hint(hint), limit]
    };
    match kind {
        "manual" => {
            let instructions = match before {
                Some(ActionKind::Manual { instructions }) => instructions.as_str(),
                _ => "",
            };
            vec![Field::text("instructions", "What is to be done").value(instructions)]
        }
        "server-script" => script("A file of the configuration server's directory scripts."),
        "guest-script" => {
            let machines = plan.groups.iter().flat_map(|group| &group.machines);
            let machines = machines.map(|name| (name.to_string(), name.to_string()));
            let mut fields = vec![Field::choice("machine", "Machine", machines).value(machine)];
            fields.extend(script("A file of the machine's directory /etc/switchback/scripts."));
            fields
        }
        _ => {
            let seconds = match before {
                Some(ActionKind::Delay { seconds }) => seconds.to_string(),
                _ => "60".into(),
            };
            vec![Field::line("seconds", "Seconds").value(seconds)]
        }
    }
}

/// `POST` to the same address.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let mut plan = plan_of(control, visit)?;
    check_mark(visit, &mark_of(&plan.groups), &plan.name)?;
    let (group, place, at) = place_of(visit, &mut plan)?;
    let action = read(visit)?;
    let actions = place.of(&mut plan.groups[group]);
    match at {
        Some(at) => actions[at] = action,
        None => actions.push(action),
    }
    Ok(send(visit, &plan, group))
}

fn read(visit: &Visit) -> Result<PlanAction, Failure> {
    let said = |name: &'static str, label: &str| match visit.field(name) {
        "" => Err(Failure::invalid(format!("{label} is missing"))),
        text => Ok(text.to_owned()),
    };
    let seconds = |name: &'static str| {
        let text = visit.field(name);
        text.parse::<u64>().map_err(|_| Failure::invalid(format!("{text:?} is no number of seconds")))
    };
    let action = match visit.field("kind") {
        "manual" => ActionKind::Manual { instructions: said("instructions", "what is to be done")? },
        "server-script" => {
            ActionKind::ServerScript { script: said("script", "the file")?, limit_s: seconds("limit")? }
        }
        "guest-script" => {
            let machine = visit.field("machine");
            ActionKind::GuestScript {
                machine: machine.parse().map_err(|_| Failure::not_found("machine", machine))?,
                script: said("script", "the file")?,
                limit_s: seconds("limit")?,
            }
        }
        "delay" => ActionKind::Delay { seconds: seconds("seconds")? },
        other => return Err(Failure::not_found("kind of action", other)),
    };
    let towards = match visit.field("towards") {
        "home" => vec![Side::Home],
        "away" => vec![Side::Away],
        _ => Vec::new(),
    };
    Ok(PlanAction {
        name: said("name", "its name")?,
        towards,
        at_test: visit.field("at-test") == "yes",
        action,
    })
}
