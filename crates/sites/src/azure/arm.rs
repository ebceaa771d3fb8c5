//! Resource Manager: requests with patience, operations to their end, lists to their last page.
//!
//! Everything that is sent from here can be sent again: resources have names, and what is asked of a machine is how it shall be. So whatever may pass
//! (throttling, a fault of Azure's, a lost answer) is tried again, as often and as long as [`AzureLimits`] says, and not before `Retry-After`.
//! Addresses that Azure gives (operations, next pages) are followed only to where it is: they get its token.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use switchback_model::azure::{AzureLimits, AzureSettings};

use super::error::AzureError;
use super::http::{Call, Http, Reply, origin};

use super::token::Tokens;

/// The first pause before something is sent again; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);
/// The first pause between two looks at an operation; as above, up to the other.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(15);
const PAGES_MAX: usize = 1000;

/// The versions of the APIs that this is written for.
pub(super) mod version {
    /// Virtual machines, sizes, quotas.
    pub(in super::super) const COMPUTE: &str = "2024-07-01";
    /// Managed disks.
    pub(in super::super) const DISKS: &str = "2024-03-02";
    /// Networks and their cards.
    pub(in super::super) const NETWORK: &str = "2024-05-01";
    /// Resource groups.
    pub(in super::super) const RESOURCES: &str = "2022-09-01";
    /// What the account may do.
    pub(in super::super) const AUTHORIZATION: &str = "2022-04-01";
}

/// Resource Manager of one subscription.
#[derive(Debug)]
pub(super) struct Arm {
    http: Arc<Http>,
    tokens: Arc<Tokens>,
    endpoint: String,
    audience: String,
    subscription: String,
    group: String,
    limits: AzureLimits,
}

#[derive(Deserialize)]
struct Page<T> {
    value: Vec<T>,
    #[serde(rename = "nextLink")]
    next: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    code: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    error: Option<Told>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Failure {
    error: Told,
}

impl Arm {
    pub(super) fn new(settings: &AzureSettings, http: Arc<Http>, tokens: Arc<Tokens>) -> Self {
        Self {
            http,
            tokens,
            endpoint: settings.cloud.resource_manager.trim_end_matches('/').to_owned(),
            audience: settings.cloud.manager_audience.trim_end_matches('/').to_owned(),
            subscription: settings.subscription.clone(),
            group: settings.resource_group.clone(),
            limits: settings.limits,
        }
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The id of something in the resource group: `Microsoft.Compute/disks/NAME`.
    pub(super) fn id(&self, of: &str) -> String {
        format!("{}/providers/{of}", self.group_id())
    }

    /// The id of the resource group.
    pub(super) fn group_id(&self) -> String {
        format!("/subscriptions/{}/resourceGroups/{}", self.subscription, self.group)
    }

    /// The id of something in the subscription.
    pub(super) fn subscription_id(&self, of: &str) -> String {
        format!("/subscriptions/{}/providers/{of}", self.subscription)
    }

    /// Reads a resource; `None`: it is not there.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        id: &str,
        version: &str,
        more: &str,
    ) -> Result<Option<T>, AzureError> {
        match self.send(Method::GET, &self.address(id, version, more), None) {
            Ok(reply) => read(&reply).map(Some),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a list, all pages.
    pub(super) fn list<T: DeserializeOwned>(
        &self,
        id: &str,
        version: &str,
        more: &str,
    ) -> Result<Vec<T>, AzureError> {
        let mut all = Vec::new();
        let mut next = Some(self.address(id, version, more));
        for _ in 0..PAGES_MAX {
            let Some(address) = next else { return Ok(all) };
            let page: Page<T> = read(&self.send(Method::GET, &address, None)?)?;
            all.extend(page.value);
            next = page.next.filter(|next| !next.is_empty());
        }
        Err(AzureError::Protocol(format!("a list has more than {PAGES_MAX} pages")))
    }

    /// Makes or changes a resource, and waits until that is done. The resource as it is then.
    pub(super) fn put<T: DeserializeOwned>(
        &self,
        id: &str,
        version: &str,
        body: &Value,
    ) -> Result<T, AzureError> {
        tracing::debug!(resource = id, "a change at an Azure site");
        let reply = self.send(Method::PUT, &self.address(id, version, ""), Some(body))?;
        self.finish(&reply, &format!("making {id}"))?;
        self.settled(id, version)
    }

    /// Waits until a resource is neither being made nor changed.
    pub(super) fn settled<T: DeserializeOwned>(&self, id: &str, version: &str) -> Result<T, AzureError> {
        let until = Instant::now() + self.limits.operation();
        let mut pause = LOOK;
        loop {
            let found: Value = self
                .get(id, version, "")?
                .ok_or_else(|| AzureError::Protocol(format!("{id} was made, and is not there")))?;
            let state =
                found.pointer("/properties/provisioningState").and_then(Value::as_str).unwrap_or_default();
            if matches!(state, "" | "Succeeded" | "Failed" | "Canceled") {
                return serde_json::from_value(found)
                    .map_err(|error| AzureError::Protocol(error.to_string()));
            }
            self.pause(&mut pause, None, until, || format!("making {id}"))?;
        }
    }

    /// Asks something of a resource, and waits until that is done.
    pub(super) fn post(&self, id: &str, version: &str, more: &str) -> Result<Reply, AzureError> {
        tracing::debug!(resource = id, "a change at an Azure site");
        let reply = self.send(Method::POST, &self.address(id, version, more), None)?;
        self.finish(&reply, id)?;
        Ok(reply)
    }

    /// Asks something of a resource, and does not wait.
    pub(super) fn begin(&self, id: &str, version: &str, more: &str) -> Result<(), AzureError> {
        self.send(Method::POST, &self.address(id, version, more), None).map(drop)
    }

    /// Deletes a resource, and waits until it is gone. One that is not there is.
    pub(super) fn delete(&self, id: &str, version: &str) -> Result<(), AzureError> {
        tracing::debug!(resource = id, "a deletion at an Azure site");
        match self.send(Method::DELETE, &self.address(id, version, ""), None) {
            Ok(reply) => self.finish(&reply, &format!("deleting {id}")),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn address(&self, id: &str, version: &str, more: &str) -> String {
        let more = if more.is_empty() { String::new() } else { format!("&{more}") };
        format!("{}{id}?api-version={version}{more}", self.endpoint)
    }

    /// Waits for the operation that an answer names, if it does.
    fn finish(&self, reply: &Reply, what: &str) -> Result<(), AzureError> {
        let until = Instant::now() + self.limits.operation();
        let mut pause = LOOK;
        let mut wait = reply.retry_after();
        let operation = reply.header("azure-asyncoperation").map(str::to_owned);
        let location = reply.header("location").map(str::to_owned).filter(|_| reply.status == 202);
        loop {
            let Some(address) = operation.as_ref().or(location.as_ref()) else { return Ok(()) };
            self.pause(&mut pause, wait, until, || what.to_owned())?;
            let look = self.send(Method::GET, address, None)?;
            wait = look.retry_after();
            if operation.is_none() {
                if look.status == 202 {
                    continue;
                }
                return Ok(());
            }
            let Status { status, error } = read(&look)?;
            match status.as_str() {
                "Succeeded" => return Ok(()),
                "Failed" | "Canceled" => {
                    let told = error.unwrap_or_default();
                    let message = format!("{what} has failed: {}", told.message);
                    return Err(AzureError::Refused { status: 200, code: told.code, message });
                }
                _ => {}
            }
        }
    }

    /// Waits a moment, unless all the time is over.
    fn pause(
        &self,
        pause: &mut Duration,
        wanted: Option<Duration>,
        until: Instant,
        what: impl Fn() -> String,
    ) -> Result<(), AzureError> {
        if Instant::now() >= until {
            return Err(AzureError::Unfinished { what: what(), limit: self.limits.operation() });
        }
        let wanted = wanted.filter(|wanted| !wanted.is_zero()).unwrap_or(*pause);
        sleep(wanted.min(self.limits.pause_max()).min(until.saturating_duration_since(Instant::now())));
        *pause = (*pause * 2).min(LOOK_MAX);
        Ok(())
    }

    /// Sends a request until it is answered.
    fn send(&self, method: Method, address: &str, body: Option<&Value>) -> Result<Reply, AzureError> {
        if origin(address) != origin(&self.endpoint) {
            let where_to = origin(address);
            return Err(AzureError::Protocol(format!(
                "it leads to {where_to}, which is not Resource Manager"
            )));
        }
        let mut call = Call::new(method, address).header("accept", "application/json");
        if let Some(body) = body {
            call = call.header("content-type", "application/json");
            call.body = body.to_string().into_bytes();
        }
        patiently(&self.limits, || self.once(&mut call))
    }

    /// Sends a request, and once more with a new token when its own has expired.
    fn once(&self, call: &mut Call) -> Result<Reply, (AzureError, Option<Duration>)> {
        let alone = |error| (error, None);
        let mut token = self.tokens.get(&self.http, &self.audience, None).map_err(alone)?;
        for is_last in [false, true] {
            call.bearer = Some(token.clone());
            let reply = self.http.send(call, self.limits.request()).map_err(alone)?;
            if (200..300).contains(&reply.status) {
                return Ok(reply);
            }
            if reply.status != 401 || is_last {
                return Err((refusal(&reply), reply.retry_after()));
            }
            token = self.tokens.get(&self.http, &self.audience, Some(token.as_str())).map_err(alone)?;
        }
        Err(alone(AzureError::Protocol("no answer".into())))
    }
}

/// Repeats what may be repeated: not before the server wants it, and not for ever.
pub(super) fn patiently<T>(
    limits: &AzureLimits,
    mut send: impl FnMut() -> Result<T, (AzureError, Option<Duration>)>,
) -> Result<T, AzureError> {
    let mut pause = PAUSE;
    let mut tries = 1;
    loop {
        match send() {
            Err((error, wanted)) if error.is_passing() && tries < limits.tries_max => {
                let wait = wait_for(wanted, pause, limits);
                tracing::debug!(%error, ?wait, "a request to Azure is tried again");
                sleep(wait);
                pause *= 2;
                tries += 1;
            }
            result => return result.map_err(|(error, _)| error),
        }
    }
}

/// What the server wants, but not more than the settings allow.
fn wait_for(wanted: Option<Duration>, pause: Duration, limits: &AzureLimits) -> Duration {
    wanted.unwrap_or(pause).min(limits.pause_max())
}

fn refusal(reply: &Reply) -> AzureError {
    let told = serde_json::from_slice::<Failure>(&reply.body).unwrap_or_default().error;
    let code = if told.code.is_empty() { "Unknown".to_owned() } else { told.code };
    let message = if told.message.is_empty() { "Azure gives no reason".to_owned() } else { told.message };
    AzureError::Refused { status: reply.status, code, message: message.trim_end_matches('.').to_owned() }
}

fn is_absent(error: &AzureError) -> bool {
    // Without its group nothing is there either, but that is no ordinary absence.
    matches!(error, AzureError::Refused { status: 404, code, .. } if code != "ResourceGroupNotFound" && code != "SubscriptionNotFound")
}

pub(super) fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, AzureError> {
    serde_json::from_slice(&reply.body).map_err(|error| AzureError::Protocol(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::token::Identity;
    use switchback_model::azure::Cloud;

    #[test]
    fn what_the_server_wants_is_waited_for_within_limits() {
        let limits = AzureLimits { pause_seconds_max: 30, ..AzureLimits::default() };
        let seconds = Duration::from_secs;
        assert_eq!(wait_for(Some(seconds(17)), PAUSE, &limits), seconds(17));
        assert_eq!(wait_for(Some(seconds(3600)), PAUSE, &limits), seconds(30));
        assert_eq!(wait_for(None, PAUSE, &limits), PAUSE);
    }

    #[test]
    fn what_will_not_pass_is_sent_once() {
        let limits = AzureLimits { pause_seconds_max: 0, ..AzureLimits::default() };
        let sent = |status: u16| {
            let mut count = 0;
            let refused = || AzureError::Refused { status, code: String::new(), message: String::new() };
            let result = patiently(&limits, || -> Result<(), _> {
                count += 1;
                Err((refused(), None))
            });
            assert!(result.is_err());
            count
        };
        assert_eq!([400, 403, 409].map(sent), [1, 1, 1]);
        assert_eq!([429, 500, 503].map(sent), [limits.tries_max; 3]);
    }

    #[test]
    fn a_token_goes_nowhere_else() {
        let settings: AzureSettings = serde_json::from_value(serde_json::json!({
            "subscription": "s", "resourceGroup": "g", "region": "r", "container": "https://a/c", "storageAccount": "/subscriptions/s",
        }))
        .unwrap();
        let http = Arc::new(Http::new(None).unwrap());
        let identity = Identity::ManagedIdentity { client: None };
        let arm = Arm::new(&settings, http, Arc::new(Tokens::new(identity, Cloud::default())));
        for address in ["https://management.azure.com.example/x", "http://management.azure.com/x", "/x"] {
            let refused = arm.send(Method::GET, address, None).unwrap_err();
            assert!(matches!(refused, AzureError::Protocol(_)), "{refused}");
        }
    }
}
