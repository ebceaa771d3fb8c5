//! Which recovery point: as users write it, and as the contract does.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

/// A recovery point, or how to choose one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PointArg {
    Latest,
    LatestProcessed,
    LatestAppConsistent,
    LatestMultiVm,
    LatestMultiVmAppConsistent,
    /// Its number or its name.
    Point(String),
}

/// What `--help` says about it.
pub(crate) const POINT_HELP: &str = "The recovery point: latest (what is still on its way is delivered first), latest-processed (the newest at \
     the target), latest-app-consistent, latest-multi-vm (the newest that all machines of the group share), latest-multi-vm-app-consistent, or a \
     number of `switchback recovery-point list`";

const NAMED: [(&str, PointArg); 5] = [
    ("latest", PointArg::Latest),
    ("latest-processed", PointArg::LatestProcessed),
    ("latest-app-consistent", PointArg::LatestAppConsistent),
    ("latest-multi-vm", PointArg::LatestMultiVm),
    ("latest-multi-vm-app-consistent", PointArg::LatestMultiVmAppConsistent),
];

impl FromStr for PointArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((_, point)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(point.clone());
        }
        // `7`, or `7-0123456789abcdef` as the contract names it.
        let is_point = text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if is_point {
            return Ok(Self::Point(text.to_owned()));
        }
        Err(format!("a number, or one of {}", NAMED.map(|(name, _)| name).join(", ")))
    }
}

impl fmt::Display for PointArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point(point) => f.write_str(point),
            named => f.write_str(NAMED.iter().find(|(_, point)| point == named).map_or("", |(name, _)| name)),
        }
    }
}

impl PointArg {
    /// `providerSpecificDetails` of a machine's failover.
    pub(crate) fn details(&self, provider: &str) -> Value {
        let kind = match self {
            Self::Latest if provider == "InMage" => "LatestTime",
            Self::Latest => "Latest",
            Self::LatestProcessed => "LatestProcessed",
            Self::LatestAppConsistent if provider == "InMage" => "LatestTag",
            Self::LatestAppConsistent => "LatestApplicationConsistent",
            Self::LatestMultiVm => "LatestMultiVmProcessed",
            Self::LatestMultiVmAppConsistent => "LatestMultiVmAppConsistent",
            Self::Point(point) => {
                return json!({"instanceType": provider, "recoveryPointType": "Custom", "recoveryPointId": point});
            }
        };
        json!({"instanceType": provider, "recoveryPointType": kind})
    }

    /// The same for a recovery plan, whose machines have no point of one number.
    pub(crate) fn plan_details(&self, provider: &str) -> Option<Value> {
        match self {
            Self::Point(_) => None,
            Self::LatestMultiVm => Some(with_multi_vm(Self::LatestProcessed.details(provider))),
            Self::LatestMultiVmAppConsistent => {
                Some(with_multi_vm(Self::LatestAppConsistent.details(provider)))
            }
            other => Some(other.details(provider)),
        }
    }
}

fn with_multi_vm(mut details: Value) -> Value {
    details["useMultiVmSyncPoint"] = "true".into();
    details
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{NAMED, PointArg};

    #[test]
    fn points_are_read_as_they_are_shown() {
        for (name, point) in NAMED {
            assert_eq!((name.parse(), point.to_string().as_str()), (Ok(point), name));
        }
        for text in ["7", "7-00ff"] {
            assert_eq!(text.parse(), Ok(PointArg::Point(text.into())));
        }
        for bad in ["", "newest", "-1", "7/8", "latest "] {
            assert!(bad.parse::<PointArg>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn points_are_said_in_the_contracts_words_for_each_direction() {
        let kind = |point: PointArg, provider| point.details(provider)["recoveryPointType"].clone();
        assert_eq!(kind(PointArg::Latest, "InMage"), "LatestTime");
        assert_eq!(kind(PointArg::Latest, "InMageAzureV2"), "Latest");
        assert_eq!(kind(PointArg::LatestAppConsistent, "InMage"), "LatestTag");
        assert_eq!(
            PointArg::Point("7".into()).details("InMage"),
            json!({"instanceType": "InMage", "recoveryPointType": "Custom", "recoveryPointId": "7"})
        );
        assert_eq!(
            PointArg::LatestMultiVm.plan_details("InMageAzureV2").unwrap(),
            json!({"instanceType": "InMageAzureV2", "recoveryPointType": "LatestProcessed", "useMultiVmSyncPoint": "true"})
        );
        assert_eq!(PointArg::Point("7".into()).plan_details("InMage"), None);
    }
}
