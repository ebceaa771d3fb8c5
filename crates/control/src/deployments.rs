//! Process servers that this server makes at a site and removes again (R14), and the tickets that they enrol with.
//!
//! What it is: the record of each, and what may be asked about it; the steps are in `jobs/deployment`. What it never does: keep a secret (a ticket's
//! follows from its id, see `switchback_identity`), touch a process server that somebody has installed.
//!
//! The path of one: [`Control::deploy_server`] writes the record together with the job; the job makes a ticket, and a machine that is told the ticket by its
//! [`InstallScript`]; [`Control::enrolled`] uses the ticket up in one change with the enrolment; the first report ends the job.
//! [`Control::retire_server`] marks the record, so that no job chooses this server any more; when nothing is replicated through it, the machine goes, and
//! then all that is known of it. A job that failed has removed what it made, and its record; where it could not, the record stays for another removal.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use switchback_identity::{Authority, ComponentName, Newcomer, PeerIdentity, Role, TicketId, WebCertificate};
use switchback_model::component::{PROGRAM_PIECE_MAX, ProgramPiece};
use switchback_model::{
    Job, JobId, JobRequest, JobState, ObjectName, ServerRequest, Site, SiteKind, TaskState, UnixMillis,
};
use switchback_store::{Expect, Kind, StoreError};

use crate::inventory::{busy, values};
use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind, InstallScript, Program};

/// The path of the program at the configuration server.
pub const PROGRAM_PATH: &str = "/install/switchback";
/// How long a ticket is good: longer than any machine takes to start and install itself.
pub(crate) const TICKET_FOR_MS: u64 = 3_600_000;

/// What new process servers are given.
#[derive(Clone, Debug)]
pub struct InstallSource {
    /// Whom they are to trust, and who makes their tickets.
    pub authority: Arc<Authority>,
    /// What is at [`PROGRAM_PATH`].
    pub program: Arc<Program>,
    /// What this server shows them when they fetch the program.
    pub web: Arc<WebCertificate>,
}

/// A process server that was made, or is being made or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// What was asked for.
    pub request: ServerRequest,
    /// With what it enrols.
    #[serde(default)]
    pub(crate) ticket: Option<TicketRecord>,
    /// The job that works on it: another is refused.
    #[serde(default)]
    pub job: Option<JobId>,
    /// Something of it may be at its site.
    #[serde(default)]
    pub(crate) may_be_there: bool,
    /// It is being removed: nothing is to be replicated through it any more.
    #[serde(default)]
    pub is_retiring: bool,
}

/// A ticket: good for one enrolment as this process server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketRecord {
    pub(crate) id: TicketId,
    /// From when on it is void.
    pub(crate) expires: UnixMillis,
    #[serde(default)]
    pub(crate) used: Option<UnixMillis>,
}

impl Deployment {
    pub(crate) fn begin(request: ServerRequest, job: JobId) -> Self {
        Self { request, ticket: None, job: Some(job), may_be_there: false, is_retiring: false }
    }

    /// As whom it enrols.
    pub(crate) fn identity(&self) -> Result<PeerIdentity, ControlError> {
        let name: ComponentName = self.request.name.as_str().parse()?;
        Ok(PeerIdentity { role: Role::ProcessServer, name })
    }
}

impl Control {
    /// Says what new process servers are given; without, none can be made. Counts once.
    pub fn offers(&self, source: InstallSource) {
        let _ = self.inner.install_source.set(source);
    }

    /// What new process servers run, if anything is offered.
    #[must_use]
    pub fn program(&self) -> Option<Arc<Program>> {
        self.inner.install_source.get().map(|source| Arc::clone(&source.program))
    }

    /// What agents are offered: this server's own program.
    ///
    /// # Errors
    /// [`ErrorKind::IllegalState`] without one.
    pub(crate) fn offered_program(&self) -> Result<Arc<Program>, ControlError> {
        self.install_source().map(|source| Arc::clone(&source.program))
    }

    /// Bytes of the program that agents are offered; none at its end.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: it is another one by now; those of the file.
    pub fn program_piece(&self, wanted: &ProgramPiece) -> Result<Vec<u8>, ControlError> {
        let program = self.offered_program()?;
        if program.sha256() != wanted.sha256 {
            let message = "this configuration server has another program than the one that is asked for";
            return Err(ControlError::new(ErrorKind::Conflict, "agent.other-program", message)
                .cause("it was updated meanwhile"));
        }
        program.read(wanted.offset, PROGRAM_PIECE_MAX).map_err(|error| {
            ControlError::new(ErrorKind::Internal, "agent.program", format!("reading the program: {error}"))
        })
    }

    fn install_source(&self) -> Result<&InstallSource, ControlError> {
        self.inner.install_source.get().ok_or_else(|| {
            let message = "this configuration server has no program to give to a new process server";
            ControlError::new(ErrorKind::IllegalState, "server.no-program", message)
        })
    }

    /// Begins to make a process server.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: there is one of that name; [`ErrorKind::Invalid`]: nothing can be made at this kind of site, or our certificate does not
    /// state the address that it is to reach us at.
    pub fn deploy_server(&self, by: &str, request: ServerRequest) -> Result<Job, ControlError> {
        self.check_request(&request)?;
        let name = request.name.clone();
        let mut job = self.new_job(by, JobRequest::DeployServer(Box::new(request.clone())))?;
        let mut batch = Batch::default();
        let deployment = Deployment::begin(request, job.id);
        batch.put(Kind::Deployment, name.key(), Expect::Absent, &deployment);
        self.submit(&mut job, batch).map_err(|error| match error.kind {
            ErrorKind::Conflict => taken(&name),
            _ => error,
        })?;
        Ok(job)
    }

    /// What can be judged without asking the site.
    pub(crate) fn check_request(&self, request: &ServerRequest) -> Result<(), ControlError> {
        let site: Versioned<Site> = self.records().get(Kind::Site, "site", &request.site.key())?;
        if !matches!(site.value.kind, SiteKind::Azure(_)) {
            let message =
                format!("nothing can make a process server at {}: it is no site of Azure", request.site);
            return Err(ControlError::new(ErrorKind::Invalid, "server.site", message)
                .remedy("install one on a machine there, and enrol it with the site's passphrase"));
        }
        let wrong = |message: String| ControlError::new(ErrorKind::Invalid, "server.address", message);
        if request.port == 0 {
            return Err(wrong("a process server takes data at a port from 1 to 65535".into()));
        }
        let server = &request.configuration_server;
        let (host, port) = server.rsplit_once(':').unwrap_or((server, ""));
        let host = host.trim_matches(['[', ']']);
        if host.is_empty() || port.parse::<u16>().unwrap_or(0) == 0 {
            let message = format!("{server:?} is no HOST:PORT of the configuration server");
            return Err(wrong(message).remedy("say where the new process server reaches this server"));
        }
        let web = &self.install_source()?.web;
        if !web.is_for(host) {
            let message = format!(
                "the configuration server's certificate does not state {host}; it states: {}",
                web.names().join(", ")
            );
            return Err(wrong(message).cause("a new process server would not trust it").remedy(
                "name one of these, or start the configuration server with `--advertise` and that name, or with a `--web-certificate` for it",
            ));
        }
        let identity = Deployment::begin(request.clone(), JobId([0; 16])).identity()?;
        if self.is_enrolled(&identity)? {
            return Err(taken(&request.name));
        }
        Ok(())
    }

    /// Begins to remove a process server that was made here.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] while a machine is replicated through it, or another job works on it.
    pub fn retire_server(&self, by: &str, name: &ObjectName) -> Result<Job, ControlError> {
        let mut job = self.new_job(by, JobRequest::RetireServer { server: name.clone() })?;
        let batch = self.lock_retiring(name, job.id)?;
        self.submit(&mut job, batch)?;
        Ok(job)
    }

    fn lock_retiring(&self, name: &ObjectName, job: JobId) -> Result<Batch, ControlError> {
        let mut found = self.stored_deployment(name)?;
        if let Some(other) = found.value.job {
            return Err(busy("process server", name, other));
        }
        self.check_unused(&found.value.identity()?)?;
        (found.value.job, found.value.is_retiring) = (Some(job), true);
        let mut batch = Batch::default();
        batch.replace(Kind::Deployment, name.key(), found.version, &found.value);
        Ok(batch)
    }

    /// Marks the record of a job that ended, as worked on once more.
    pub(crate) fn lock_deployment_again(&self, job: &Job) -> Result<Batch, ControlError> {
        let JobRequest::DeployServer(request) = &job.request else {
            return self.lock_retiring(job.request.object(), job.id);
        };
        self.check_request(request)?;
        let name = &request.name;
        let (mut value, expect) = match self.records().find::<Deployment>(Kind::Deployment, &name.key())? {
            None => (Deployment::begin((**request).clone(), job.id), Expect::Absent),
            Some(found) => (found.value, Expect::Version(found.version)),
        };
        if let Some(other) = value.job.filter(|other| *other != job.id) {
            return Err(busy("process server", name, other));
        }
        (value.request, value.job) = ((**request).clone(), Some(job.id));
        let mut batch = Batch::default();
        batch.put(Kind::Deployment, name.key(), expect, &value);
        Ok(batch)
    }

    /// The record of a job that ends is free again; one of which nothing is left goes.
    pub(crate) fn free_deployment(
        &self,
        job: &Job,
        state: JobState,
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        let name = job.request.object();
        let found = self.records().find::<Deployment>(Kind::Deployment, &name.key())?;
        let Some(mut found) = found.filter(|found| found.value.job == Some(job.id)) else { return Ok(()) };
        if state != JobState::Succeeded && !found.value.may_be_there {
            batch.delete(Kind::Deployment, name.key(), Expect::Version(found.version));
            return Ok(());
        }
        // What has begun to go is not to be used again.
        let goes = job.tasks.get(1).is_some_and(|task| task.state != TaskState::NotStarted);
        (found.value.job, found.value.is_retiring) = (None, found.value.is_retiring && goes);
        batch.replace(Kind::Deployment, name.key(), found.version, &found.value);
        Ok(())
    }

    /// Those that were made here, and are being made or removed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn deployments(&self) -> Result<Vec<Deployment>, ControlError> {
        Ok(values(self.records().all(Kind::Deployment)?))
    }

    /// One of them.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn deployment(&self, name: &ObjectName) -> Result<Deployment, ControlError> {
        Ok(self.stored_deployment(name)?.value)
    }

    pub(crate) fn stored_deployment(&self, name: &ObjectName) -> Result<Versioned<Deployment>, ControlError> {
        let found = self.records().find(Kind::Deployment, &name.key())?;
        found.ok_or_else(|| {
            let message = format!("no process server {name} was made here");
            ControlError::new(ErrorKind::NotFound, "server.not-made", message)
                .cause("it was installed by hand, or is gone")
                .remedy("`switchback server remove` forgets one that was installed by hand")
        })
    }

    /// A component has enrolled. A ticket is used up by it.
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`]: the ticket is void; those of the store.
    pub fn enrolled(&self, newcomer: &Newcomer) -> Result<(), ControlError> {
        self.check_not_superseded()?;
        let mut batch = Batch::default();
        if let Some(ticket) = &newcomer.ticket {
            self.use_up(ticket, &newcomer.identity, &mut batch)?;
        }
        self.add_enrolment(&newcomer.identity, &mut batch);
        self.records().commit(batch).map_err(|error| match error {
            StoreError::Conflict { .. } if newcomer.ticket.is_some() => {
                void("it is being used by another host")
            }
            other => other.into(),
        })?;
        self.wake();
        Ok(())
    }

    fn use_up(&self, id: &TicketId, identity: &PeerIdentity, batch: &mut Batch) -> Result<(), ControlError> {
        let is_of = |found: &Versioned<Deployment>| {
            found.value.ticket.as_ref().is_some_and(|ticket| ticket.id == *id)
        };
        let found = self.records().all::<Deployment>(Kind::Deployment)?.into_iter().find(is_of);
        let mut found = found.ok_or_else(|| void("there is no such ticket any more"))?;
        if found.value.identity()? != *identity {
            return Err(void(&format!("it is not for {identity}")));
        }
        let now = self.now();
        let name = found.value.request.name.clone();
        let Some(ticket) = &mut found.value.ticket else { return Err(void("there is none")) };
        if ticket.used.is_some() {
            return Err(void("it has been used"));
        }
        if now >= ticket.expires {
            return Err(void("its time is over"));
        }
        ticket.used = Some(now);
        batch.replace(Kind::Deployment, name.key(), found.version, &found.value);
        Ok(())
    }

    /// What the machine of a process server runs once, with its ticket.
    pub(crate) fn script_of(
        &self,
        deployment: &Deployment,
        ticket: &TicketId,
    ) -> Result<InstallScript, ControlError> {
        let source = self.install_source()?;
        let request = &deployment.request;
        // With a given certificate the program comes from a server that our authority does not vouch for; the chain as it is now does. What comes is
        // compared with its digest in any case, and the enrolment that follows trusts neither, but the ticket.
        let given = source.web.given_chain().unwrap_or_default();
        Ok(InstallScript {
            name: request.name.to_string(),
            site: request.site.to_string(),
            configuration_server: request.configuration_server.clone(),
            advertise: format!("{}:{}", request.address, request.port),
            port: request.port,
            program_path: PROGRAM_PATH.into(),
            program_sha256: source.program.sha256().into(),
            authority: source.authority.certificate_pem() + &given,
            secret: source.authority.ticket(ticket)?.reveal(),
        })
    }

    /// Whether a process server is being removed.
    pub(crate) fn retiring(&self) -> Result<Vec<String>, ControlError> {
        let retiring = self.deployments()?.into_iter().filter(|deployment| deployment.is_retiring);
        Ok(retiring.map(|deployment| deployment.request.name.to_string()).collect())
    }

    /// All that is known of a process server that is gone, goes.
    pub(crate) fn forget_deployment(
        &self,
        deployment: &Versioned<Deployment>,
        batch: &mut Batch,
    ) -> Result<(), ControlError> {
        self.forget_server(&deployment.value.identity()?, batch)?;
        let key = deployment.value.request.name.key();
        batch.delete(Kind::Deployment, key, Expect::Version(deployment.version));
        Ok(())
    }
}

fn taken(name: &ObjectName) -> ControlError {
    let message = format!("there is a process server {name} already");
    ControlError::new(ErrorKind::Conflict, "server.taken", message)
        .remedy("choose another name; `switchback server retire` removes one that was made here")
}

fn void(why: &str) -> ControlError {
    let message = format!("the ticket cannot be used: {why}");
    ControlError::new(ErrorKind::Forbidden, "ticket.void", message)
        .remedy("deploy the process server anew: each attempt has a ticket of its own")
}
