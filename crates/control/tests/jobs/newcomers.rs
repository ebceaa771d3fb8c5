//! Components that join a world: by the passphrase, or as servers that a job has made, which install the configuration server's own program.

use std::sync::Arc;

use switchback_control::{InstallSource, Program};
use switchback_disk::DirVolume;
use switchback_identity::{Authority, Newcomer, Role, TicketId, WebCertificate};
use switchback_model::component::{ProcessServerState, State};

use super::{PROGRAM_LEN, World, peer};

impl World {
    /// A component enrols with the passphrase.
    pub(crate) fn enrol(&self, role: Role, name: &str) {
        self.control.enrolled(&Newcomer { identity: peer(role, name), ticket: None }).unwrap();
    }

    /// The site's.
    pub(super) fn authority(&self) -> Authority {
        let identity = self._directory.path().join("identity");
        let is_there = identity.exists();
        std::fs::create_dir_all(&identity).unwrap();
        let volume = Arc::new(DirVolume::open(&identity).unwrap());
        let made = if is_there { Authority::open } else { Authority::create };
        made(volume, self.clock.clone()).unwrap()
    }

    /// From now on process servers can be made at the recovery site.
    pub(crate) fn offer_program(&mut self) {
        let web = WebCertificate::issue(Arc::new(self.authority()), vec!["cs.example".into()]).unwrap();
        self.offer_program_behind(web);
    }

    /// The same, fetched from a server that shows this certificate.
    pub(crate) fn offer_program_behind(&mut self, web: Arc<WebCertificate>) {
        let program = self._directory.path().join("program");
        std::fs::write(&program, vec![7; PROGRAM_LEN]).unwrap();
        self.install_source = Some(InstallSource {
            web,
            authority: Arc::new(self.authority()),
            program: Arc::new(Program::open(&program).unwrap()),
        });
        self.restart();
    }

    /// Process servers that were made: each enrols once with what its script has, and reports from then on.
    pub(super) fn newcomers(&self) {
        let made = self.recovery.servers.lock().unwrap().clone();
        for plan in made.values().filter(|_| !self.newcomers_fail) {
            let identity = peer(Role::ProcessServer, &plan.name);
            let secret = plan.custom_data.lines().find_map(|line| line.strip_prefix("secret='")).unwrap();
            let ticket = TicketId::try_from(format!("{}{}", &secret[..4], &secret[5..9])).unwrap();
            let is_new = !self.control.is_enrolled(&identity).unwrap();
            let newcomer = Newcomer { identity, ticket: Some(ticket) };
            if !is_new || self.control.enrolled(&newcomer).is_ok() {
                let state = State::ProcessServer(ProcessServerState::default());
                self.report(Role::ProcessServer, &plan.name, "recovery", state);
            }
        }
    }
}
