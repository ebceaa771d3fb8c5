//! A session at the server: calls that log in when they must.
//!
//! A session ends whenever the server likes: idle for 30 minutes, restarted, ended by an administrator. The answer is then `NotAuthenticated` and the
//! call was not done, so after one login it is made again, whatever it is. What has been read with the old session lives on; views,
//! filters and collectors of it do not (see [`watch`](super::watch)).
//!
//! Calls that only read are made again while the server cannot be reached, with growing pauses, as long as [`Limits`] allows. Calls that change
//! something are not: whether the first one arrived cannot be told from here. Whoever made them looks at what there is, and decides.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, sleep};
use std::time::{Duration, Instant};

use super::settings::{Credentials, Limits, VsphereSettings};
use super::soap::{Answer, Http, MoRef, Node, VimError, Xml, envelope, results};

/// The first pause before reading is tried again; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The first pause between two looks at a task; as above.
const LOOK: Duration = Duration::from_millis(50);
const LOOK_MAX: Duration = Duration::from_secs(2);
/// A login that was refused is not tried again for so long: five wrong ones in three minutes lock an account.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);
/// Nobody waits for the end of a session longer than this.
const LOGOUT_LIMIT: Duration = Duration::from_secs(5);
/// The oldest API that is supported.
const VERSION_MIN: (u32, u32) = (6, 5);

/// What a login is good for.
#[derive(Debug)]
pub(super) struct Login {
    cookie: String,
    /// The session's key.
    pub(super) key: String,
    /// The account as the server names it.
    pub(super) user: String,
    /// `ServiceContent`: the managers and the product.
    content: Node,
}

impl Login {
    /// One of the server's own objects, by its name in `ServiceContent`.
    pub(super) fn manager(&self, name: &'static str) -> Result<MoRef, VimError> {
        self.content.reference_at(name).ok_or_else(|| VimError::Protocol {
            method: "RetrieveServiceContent",
            detail: format!("it has no {name}"),
        })
    }

    /// `AboutInfo`: what the product is.
    pub(super) fn about(&self) -> Option<&Node> {
        self.content.at("about")
    }
}

#[derive(Default)]
struct State {
    login: Option<Arc<Login>>,
    refused: Option<(Instant, String)>,
}

/// A session that lasts.
pub(super) struct Session {
    http: Arc<Http>,
    credentials: Credentials,
    limits: Limits,
    state: Mutex<State>,
    /// When a task was last begun or seen at work, or what a watch knows was last not to be relied on.
    distrusted: Mutex<Option<Instant>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("url", &self.http.url()).finish_non_exhaustive()
    }
}

impl Session {
    /// Sends nothing yet.
    pub(super) fn new(settings: &VsphereSettings, credentials: Credentials) -> Result<Self, VimError> {
        settings.limits.check()?;
        let http = Arc::new(Http::new(&settings.url, &settings.trust)?);
        let (state, distrusted) = (Mutex::default(), Mutex::default());
        Ok(Self { http, credentials, limits: settings.limits, state, distrusted })
    }

    pub(super) fn url(&self) -> &str {
        self.http.url()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The login there is, or a new one.
    pub(super) fn login(&self) -> Result<Arc<Login>, VimError> {
        patiently(&self.limits, || self.login_instead_of(None))
    }

    /// One of the server's own objects.
    pub(super) fn manager(&self, name: &'static str) -> Result<MoRef, VimError> {
        self.login()?.manager(name)
    }

    /// Calls a method that only reads.
    pub(super) fn read(
        &self,
        this: &MoRef,
        method: &'static str,
        arguments: Xml,
    ) -> Result<Vec<Node>, VimError> {
        let body = envelope(this, method, arguments);
        patiently(&self.limits, || self.send(method, &body, self.limits.request()))
    }

    /// Calls a method that reads and whose answer may take `wait` longer than others. Not tried again.
    pub(super) fn wait(
        &self,
        this: &MoRef,
        method: &'static str,
        arguments: Xml,
        wait: Duration,
    ) -> Result<Vec<Node>, VimError> {
        self.send(method, &envelope(this, method, arguments), self.limits.request() + wait)
    }

    /// Calls a method that changes something.
    pub(super) fn change(
        &self,
        this: &MoRef,
        method: &'static str,
        arguments: Xml,
    ) -> Result<Vec<Node>, VimError> {
        tracing::debug!(server = self.url(), object = %this, method, "a change at a vSphere site");
        self.send(method, &envelope(this, method, arguments), self.limits.request())
    }

    /// What a watch knows may be older than what is asked for.
    pub(super) fn distrust_watches(&self) {
        *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether that was, or a task was at work, not longer ago than that: all that machines and disks are changed by are tasks.
    pub(super) fn distrusts_watches(&self, time: Duration) -> bool {
        let distrusted = *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        distrusted.is_some_and(|since| since.elapsed() < time)
    }

    /// Calls a method that starts a task, and waits for its end; gives its result.
    pub(super) fn task(
        &self,
        this: &MoRef,
        method: &'static str,
        arguments: Xml,
    ) -> Result<Option<Node>, VimError> {
        let until = Instant::now() + self.limits.task();
        self.distrust_watches();
        let started = self.change(this, method, arguments)?;
        let task = started
            .first()
            .map(Node::reference)
            .ok_or_else(|| VimError::Protocol { method, detail: "no task was started".to_owned() })?;
        let mut pause = LOOK;
        loop {
            let info = self.object(&task, &["info.state", "info.result", "info.error"])?;
            self.distrust_watches();
            match info.text("info.state") {
                Some("success") => return Ok(info.get("info.result").cloned()),
                Some("error") => return Err(failed_task(method, info.get("info.error"))),
                _ if Instant::now() > until => {
                    return Err(VimError::Unfinished { method, limit: self.limits.task() });
                }
                _ => sleep(pause),
            }
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Ends the session at the server, if there is one. The next call would begin a new one.
    pub(super) fn logout(&self) -> Result<(), VimError> {
        match self.state().login.take() {
            Some(login) => end(&self.http, &login),
            None => Ok(()),
        }
    }

    fn send(&self, method: &'static str, body: &str, limit: Duration) -> Result<Vec<Node>, VimError> {
        let mut login = self.login_instead_of(None)?;
        let call = |login: &Login| {
            let answer = self.http.post(method, body.to_owned(), Some(&login.cookie), limit)?;
            results(method, &answer)
        };
        match call(&login) {
            Err(error) if error.is("NotAuthenticated") => {
                tracing::debug!(server = self.url(), method, "the session has ended: a new one is begun");
                login = self.login_instead_of(Some(&login))?;
                call(&login)
            }
            result => result,
        }
    }

    /// The login there is, if it is not the one that has ended; else a new one.
    fn login_instead_of(&self, ended: Option<&Arc<Login>>) -> Result<Arc<Login>, VimError> {
        // Others wait here meanwhile: one login is enough for all.
        let mut state = self.state();
        match &state.login {
            Some(login) if ended.is_none_or(|ended| !Arc::ptr_eq(login, ended)) => {
                return Ok(Arc::clone(login));
            }
            _ => state.login = None,
        }
        if let Some((when, message)) = &state.refused
            && when.elapsed() < REFUSED_PAUSE
        {
            return Err(VimError::fault("Login", "InvalidLogin".to_owned(), message.clone(), None));
        }
        match self.begin() {
            Ok(login) => {
                let login = Arc::new(login);
                state.login = Some(Arc::clone(&login));
                state.refused = None;
                Ok(login)
            }
            Err(VimError::Fault { kind, message, .. }) if kind == "InvalidLogin" => {
                state.refused = Some((Instant::now(), message.clone()));
                Err(VimError::fault("Login", kind, message, None))
            }
            Err(error) => Err(error),
        }
    }

    fn begin(&self) -> Result<Login, VimError> {
        const CONTENT: &str = "RetrieveServiceContent";
        let instance = MoRef::new("ServiceInstance", "ServiceInstance");
        let answer = self.post(CONTENT, envelope(&instance, CONTENT, Xml::new()), None)?;
        let content = one(CONTENT, results(CONTENT, &answer)?)?;
        check_version(&content)?;
        let manager = content.reference_at("sessionManager").ok_or_else(|| VimError::Protocol {
            method: CONTENT,
            detail: "it has no sessionManager".to_owned(),
        })?;
        let who = Xml::new()
            .text("userName", self.credentials.user())
            .text("password", self.credentials.password());
        let answer = self.post("Login", envelope(&manager, "Login", who), None)?;
        let session = one("Login", results("Login", &answer)?)?;
        let cookie = answer.cookie.ok_or_else(|| VimError::Protocol {
            method: "Login",
            detail: "it set no session cookie".to_owned(),
        })?;
        Ok(Login { cookie, key: session.owned_at("key"), user: session.owned_at("userName"), content })
    }

    fn post(&self, method: &'static str, body: String, cookie: Option<&str>) -> Result<Answer, VimError> {
        self.http.post(method, body, cookie, self.limits.request())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in it is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    /// A server has a limit on sessions (ESXi 100), and idle ones count for half an hour. Whoever drops this may be asynchronous and is not made
    /// to wait.
    fn drop(&mut self) {
        let Some(login) = self.state().login.take() else { return };
        let http = Arc::clone(&self.http);
        let ending = Builder::new().name("vsphere-logout".to_owned()).spawn(move || {
            if let Err(error) = end(&http, &login) {
                tracing::debug!(server = http.url(), %error, "a session was left to end by itself");
            }
        });
        if let Err(error) = ending {
            tracing::debug!(%error, "a session was left to end by itself");
        }
    }
}

fn end(http: &Http, login: &Login) -> Result<(), VimError> {
    let body = envelope(&login.manager("sessionManager")?, "Logout", Xml::new());
    let answer = http.post("Logout", body, Some(&login.cookie), LOGOUT_LIMIT);
    match answer.and_then(|answer| results("Logout", &answer)) {
        Err(error) if !error.is("NotAuthenticated") => Err(error),
        _ => Ok(()),
    }
}

/// Repeats what only reads, while the server cannot be reached.
fn patiently<T>(limits: &Limits, read: impl Fn() -> Result<T, VimError>) -> Result<T, VimError> {
    let until = Instant::now() + limits.patience();
    let mut pause = PAUSE;
    loop {
        match read() {
            Err(error @ (VimError::Unreachable { .. } | VimError::Slow { .. })) => {
                if Instant::now() + pause > until {
                    return Err(error);
                }
                tracing::debug!(%error, "reading from a vSphere site is tried again");
                sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
            result => return result,
        }
    }
}

fn one(method: &'static str, results: Vec<Node>) -> Result<Node, VimError> {
    let missing = || VimError::Protocol { method, detail: "there is nothing in the answer".to_owned() };
    results.into_iter().next().ok_or_else(missing)
}

fn failed_task(method: &'static str, error: Option<&Node>) -> VimError {
    let fault = error.and_then(|error| error.at("fault"));
    let kind = fault.map_or_else(String::new, |fault| fault.xsi_type.clone());
    let message = error.map_or_else(String::new, |error| error.owned_at("localizedMessage"));
    VimError::fault(method, kind, message, fault)
}

fn check_version(content: &Node) -> Result<(), VimError> {
    let version = content.owned_at("about.apiVersion");
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= VERSION_MIN {
        return Ok(());
    }
    let name = content.owned_at("about.fullName");
    Err(VimError::Impossible(format!(
        "{name:?} speaks version {version:?} of the API, 6.5 or newer is needed: upgrade it [vsphere-version]"
    )))
}
