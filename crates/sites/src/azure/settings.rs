//! Whether an Azure site's settings make sense; what they are is the model's.

use switchback_model::azure::{AzureLimits, AzureSettings};

use super::error::AzureError;

/// Whether settings make sense.
pub(super) fn check(settings: &AzureSettings) -> Result<(), AzureError> {
    let wrong = |key: &str, problem: &str| Err(AzureError::Settings(format!("`{key}` {problem}")));
    for (key, value) in [
        ("subscription", &settings.subscription),
        ("resourceGroup", &settings.resource_group),
        ("region", &settings.region),
    ] {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '(' | ')');
        if value.is_empty() || !value.chars().all(fits) {
            return wrong(key, &format!("cannot be {value:?}"));
        }
    }
    if settings.container.contains(['?', '#', '@']) {
        return wrong("container", "has a SAS or an account in it: give that as the site's credentials");
    }
    for (key, value) in [
        ("container", &settings.container),
        ("cloud.resourceManager", &settings.cloud.resource_manager),
        ("cloud.authority", &settings.cloud.authority),
    ] {
        if !is_safe(value) {
            return wrong(key, &format!("must be an https:// address, {value:?} is none"));
        }
    }
    for id in settings.networks.iter().chain([&settings.storage_account]) {
        if !id.to_lowercase().starts_with("/subscriptions/") {
            return wrong(
                "networks",
                &format!("and `storageAccount` are ids that begin with /subscriptions/, {id:?} is none"),
            );
        }
    }
    if settings.machines.zone.is_some() && settings.machines.availability_set.is_some() {
        return wrong("machines.zone", "and an availability set exclude each other");
    }
    if settings.machines.sizes.is_empty() {
        return wrong("machines.sizes", "must name one at least");
    }
    let AzureLimits { request_seconds, operation_seconds, tries_max, .. } = settings.limits;
    if request_seconds == 0 || operation_seconds == 0 || tries_max == 0 {
        return wrong("limits", "must not be 0, but for `pauseSecondsMax`");
    }
    Ok(())
}

/// Tokens and a SAS go to nobody who could be somebody else. This host itself cannot.
fn is_safe(address: &str) -> bool {
    let Ok(url) = url::Url::parse(address) else { return false };
    let is_local = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    url.has_host() && (url.scheme() == "https" || url.scheme() == "http" && is_local)
}

#[cfg(test)]
mod tests {
    use switchback_model::azure::{Cloud, MachineSettings};

    use super::*;

    fn settings() -> AzureSettings {
        toml::from_str(
            r#"
subscription = "6f1d2c3b-0000-4000-8000-5b0a11ab0001"
resourceGroup = "Recovery"
region = "westeurope"
container = "https://switchbackreplicas.blob.core.windows.net/replicas"
storageAccount = "/subscriptions/6f1d2c3b-0000-4000-8000-5b0a11ab0001/resourceGroups/Recovery/providers/Microsoft.Storage/storageAccounts/switchbackreplicas"
"#,
        )
        .unwrap()
    }

    #[test]
    fn settings_are_read_and_written() {
        let settings = settings();
        check(&settings).unwrap();
        assert_eq!(settings.container_name(), "replicas");
        assert_eq!(settings.cloud.resource_manager, "https://management.azure.com");
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(toml::from_str::<AzureSettings>(&text).unwrap(), settings);
    }

    #[test]
    fn the_documented_settings_are_settings() {
        let guide = include_str!("../../../../docs/azure-site.md");
        let block = guide.split("```").nth(1).and_then(|block| block.strip_prefix("toml")).unwrap();
        let settings: AzureSettings = toml::from_str(block).unwrap();
        check(&settings).unwrap();
        assert_eq!(settings.limits, AzureLimits::default(), "the limits that are shown are the defaults");
        assert_eq!(settings.cloud, Cloud::default());
        assert!(settings.machines.sizes.iter().all(|size| MachineSettings::default().sizes.contains(size)));
    }

    #[test]
    fn wrong_settings_name_their_key() {
        let refused = |change: &dyn Fn(&mut AzureSettings), told: &str| {
            let mut settings = settings();
            change(&mut settings);
            let error = check(&settings).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("secret"), "{error}");
        };
        refused(&|one| one.region = "west europe".into(), "`region`");
        refused(&|one| one.container.push_str("?sig=secret"), "`container` has a SAS");
        refused(&|one| one.container = "http://elsewhere/replicas".into(), "`container` must be an https://");
        refused(&|one| one.cloud.authority = "http://10.0.0.1".into(), "`cloud.authority`");
        refused(&|one| one.networks = vec!["net".into()], "`networks`");
        refused(&|one| one.machines.sizes.clear(), "`machines.sizes`");
        refused(&|one| one.limits.tries_max = 0, "`limits`");
        refused(
            &|one| {
                one.machines.zone = Some("1".into());
                one.machines.availability_set = Some("/subscriptions/x".into());
            },
            "exclude each other",
        );
    }
}
