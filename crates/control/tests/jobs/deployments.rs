//! Process servers that are made at a site and removed again: with a kill at every step, with a site that refuses, with tickets that are void.

use switchback_control::{ErrorKind, Turn};
use switchback_identity::{Newcomer, PeerIdentity, Role, TicketId, WebCertificate};
use switchback_model::{ItemOperation, Job, JobState, ReprotectOptions, ServerRequest, TaskState};

use super::world::World;
use super::{Kill, error_of, killed_at_every_step, name};

const NAME: &str = "ps-azure";

fn request() -> ServerRequest {
    ServerRequest {
        name: name(NAME),
        site: name("recovery"),
        network: "lan".into(),
        address: [10, 20, 1, 20].into(),
        size: "Standard_D2s_v5".into(),
        administrator: "anna".into(),
        ssh_key: "ssh-ed25519 AAAA anna".into(),
        configuration_server: "cs.example:443".into(),
        port: 9443,
        disk_gib: 64,
    }
}

fn world() -> World {
    let mut world = World::azure();
    world.offer_program();
    world
}

fn identity() -> PeerIdentity {
    PeerIdentity { role: Role::ProcessServer, name: NAME.parse().unwrap() }
}

impl World {
    fn deploy(&mut self, kill: Kill) -> bool {
        let job = self.control.deploy_server("tester", request()).unwrap();
        self.done(&job, kill)
    }

    fn retire(&mut self, kill: Kill) -> bool {
        let job = self.control.retire_server("tester", &name(NAME)).unwrap();
        self.done(&job, kill)
    }

    fn deploy_and_fail(&mut self) -> Job {
        let job = self.control.deploy_server("tester", request()).unwrap();
        let (job, _) = self.finish(&job, None);
        assert_eq!(job.state, JobState::Failed, "{job:#?}");
        job
    }

    fn made_servers(&self) -> usize {
        self.recovery.servers.lock().unwrap().len()
    }

    /// Nothing is left of it, at the site and here.
    fn assert_gone(&self) {
        assert_eq!(self.made_servers(), 0);
        assert_eq!(self.control.deployments().unwrap(), []);
        assert!(!self.control.is_enrolled(&identity()).unwrap());
        assert!(self.control.servers().unwrap().iter().all(|server| server.identity != identity()));
    }
}

fn deployed() -> World {
    let mut world = world();
    world.deploy(None);
    world
}

#[test]
fn a_deployment_and_a_removal_survive_a_kill_at_every_step() {
    killed_at_every_step(
        world,
        |world, kill| world.deploy(kill),
        |world| {
            assert_eq!(world.made_servers(), 1);
            let made = &world.control.deployments().unwrap()[0];
            assert_eq!((made.job, made.is_retiring), (None, false));
            let servers = world.control.servers().unwrap();
            let shown = servers.iter().find(|server| server.identity == identity()).unwrap();
            assert!(shown.reasons.is_empty() && shown.last_report.is_some(), "{shown:?}");
        },
    );
    killed_at_every_step(deployed, |world, kill| world.retire(kill), World::assert_gone);
}

#[test]
fn a_machine_replicates_through_it_and_it_stays_as_long_as_one_does() {
    let mut world = world().with_web01_protected().committed();
    world.deploy(None);
    let options = ReprotectOptions { process_server: Some(NAME.into()), ..ReprotectOptions::default() };
    world.operate(ItemOperation::Reprotect(options), None);
    assert_eq!(world.item().replication.unwrap().process_server, NAME);
    let refused = world.control.retire_server("tester", &name(NAME)).unwrap_err();
    assert_eq!((refused.kind, refused.error.code.as_str()), (ErrorKind::Conflict, "server.in-use"));
    assert!(refused.error.message.contains("web01"), "{refused}");
    assert!(!world.control.deployments().unwrap()[0].is_retiring, "a refusal marks nothing");
    let forgotten = world.control.remove_server(&identity()).unwrap_err();
    assert_eq!(forgotten.error.code, "server.made-here", "its machine would be left");
    world.operate(ItemOperation::SwitchProcessServer { process_server: "recovery-ps".into() }, None);
    world.retire(None);
    world.assert_gone();
}

/// A reprotect that began first may have chosen it before it was marked, and writes that down later.
#[test]
fn a_removal_waits_for_jobs_that_may_have_chosen_it_and_new_ones_do_not_choose_it() {
    let mut world = world().with_web01_protected().committed();
    world.deploy(None);
    let options = ReprotectOptions { process_server: Some(NAME.into()), ..ReprotectOptions::default() };
    let earlier = world.control.operate("tester", &name("web01"), ItemOperation::Reprotect(options)).unwrap();
    let removal = world.control.retire_server("tester", &name(NAME)).unwrap();
    while !world.control.job(earlier.id).unwrap().state.is_final() {
        assert_eq!(world.made_servers(), 1, "it goes only when the reprotect has ended");
        if world.control.work_once(None).unwrap() == Turn::Idle {
            world.round();
        }
    }
    let earlier = world.control.job(earlier.id).unwrap();
    assert!(error_of(&earlier).message.contains("no process-server ps-azure"), "{earlier:#?}");
    world.done(&removal, None);
    world.assert_gone();
}

#[test]
fn one_that_does_not_enrol_is_removed_with_what_its_console_said_and_can_be_tried_again() {
    let mut world = world();
    world.newcomers_fail = true;
    let job = world.control.deploy_server("tester", request()).unwrap();
    while world.control.job(job.id).unwrap().tasks[3].state == TaskState::NotStarted {
        world.control.work_once(None).unwrap();
    }
    world.clock.advance(31 * 60);
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Failed);
    let said = error_of(&job);
    assert_eq!(said.code, "server.not-enrolled");
    assert!(said.cause.contains("failed while fetching the program"), "{said:?}");
    assert!(said.remedy.contains("cs.example:443"), "{said:?}");
    world.assert_gone();
    world.newcomers_fail = false;
    let again = world.control.restart_job("tester", job.id).unwrap();
    world.done(&again, None);
    assert_eq!(world.made_servers(), 1);
}

#[test]
fn what_a_site_refuses_leaves_nothing_and_what_it_does_not_give_back_stays_known() {
    let mut world = world();
    *world.recovery.refuses_servers.lock().unwrap() = true;
    let job = world.deploy_and_fail();
    assert!(error_of(&job).message.contains("no quota"), "{job:#?}");
    // It could not even be looked whether something is there: that stays known, and can be removed later.
    assert_eq!(world.control.deployments().unwrap().len(), 1);
    let removal = world.control.retire_server("tester", &name(NAME)).unwrap();
    let (removal, _) = world.finish(&removal, None);
    assert_eq!(removal.state, JobState::Failed, "{removal:#?}");
    *world.recovery.refuses_servers.lock().unwrap() = false;
    let removal = world.control.restart_job("tester", removal.id).unwrap();
    world.done(&removal, None);
    world.assert_gone();
}

#[test]
fn a_cancelled_deployment_leaves_nothing() {
    let mut world = world();
    world.newcomers_fail = true;
    let job = world.control.deploy_server("tester", request()).unwrap();
    while world.made_servers() == 0 {
        world.control.work_once(None).unwrap();
    }
    world.control.cancel_job("tester", job.id).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(job.state, JobState::Cancelled);
    assert!(job.tasks.iter().any(|task| task.state == TaskState::Undone), "{job:#?}");
    world.assert_gone();
}

#[test]
fn a_ticket_is_good_once_for_one_name_and_an_hour() {
    let world = || {
        let mut world = world();
        world.newcomers_fail = true;
        world.control.deploy_server("tester", request()).unwrap();
        while world.made_servers() == 0 {
            world.control.work_once(None).unwrap();
        }
        let mark = world.recovery.servers.lock().unwrap()[NAME].mark.clone();
        (world, TicketId::try_from(mark).unwrap())
    };
    let refused = |world: &World, role: Role, name: &str, ticket: &TicketId| {
        let identity = PeerIdentity { role, name: name.parse().unwrap() };
        let newcomer = Newcomer { identity: identity.clone(), ticket: Some(ticket.clone()) };
        let refusal = world.control.enrolled(&newcomer).unwrap_err();
        assert_eq!((refusal.kind, refusal.error.code.as_str()), (ErrorKind::Forbidden, "ticket.void"));
        assert!(name == NAME || !world.control.is_enrolled(&identity).unwrap());
        refusal.error.message
    };
    let (one, ticket) = world();
    assert!(refused(&one, Role::ProcessServer, "another", &ticket).contains("not for"));
    assert!(refused(&one, Role::Target, NAME, &ticket).contains("not for"));
    assert!(refused(&one, Role::ProcessServer, NAME, &TicketId::generate()).contains("no such ticket"));
    one.control.enrolled(&Newcomer { identity: identity(), ticket: Some(ticket.clone()) }).unwrap();
    assert!(refused(&one, Role::ProcessServer, NAME, &ticket).contains("has been used"));
    let (late, ticket) = world();
    late.clock.advance(3601);
    assert!(refused(&late, Role::ProcessServer, NAME, &ticket).contains("time is over"));
}

#[test]
fn with_a_given_certificate_its_names_count_and_the_script_has_its_chain() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["*.corp.example".to_owned()]).unwrap();
    // The world's clock begins with 1970.
    params.not_before = rcgen::date_time_ymd(1970, 1, 1);
    let chain = params.self_signed(&key).unwrap().pem();
    let directory = tempfile::tempdir().unwrap();
    let [chain_file, key_file] = ["chain.pem", "key.pem"].map(|file| directory.path().join(file));
    std::fs::write(&chain_file, &chain).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let mut world = World::azure();
    let given = WebCertificate::given(chain_file, key_file, world.clock.clone()).unwrap();
    world.offer_program_behind(given);

    let refusal = world.control.deploy_server("tester", request()).unwrap_err();
    assert_eq!(refusal.error.code, "server.address");
    assert!(refusal.error.message.contains("it states: *.corp.example"), "{refusal}");
    let request = ServerRequest { configuration_server: "dr.corp.example:443".into(), ..request() };
    let job = world.control.deploy_server("tester", request).unwrap();
    world.done(&job, None);
    let servers = world.recovery.servers.lock().unwrap().clone();
    let script = &servers.values().next().unwrap().custom_data;
    assert_eq!(script.matches("BEGIN CERTIFICATE").count(), 2, "our authority's, and the chain");
    let line = chain.lines().nth(1).unwrap();
    assert!(script.contains(line) && !script.contains("PRIVATE KEY"));
}

#[test]
fn impossible_requests_are_refused_before_anything_is_made() {
    let mut world = world();
    let refused = |world: &World, change: &dyn Fn(&mut ServerRequest)| {
        let mut request = request();
        change(&mut request);
        let refusal = world.control.deploy_server("tester", request).unwrap_err();
        assert_eq!(world.control.deployments().unwrap(), [], "{refusal}");
        refusal.error.code.clone()
    };
    assert_eq!(refused(&world, &|one| one.site = name("home")), "server.site");
    assert_eq!(refused(&world, &|one| one.site = name("nowhere")), "site.not-found");
    assert_eq!(
        refused(&world, &|one| one.configuration_server = "other.example:443".into()),
        "server.address"
    );
    assert_eq!(refused(&world, &|one| one.configuration_server = "cs.example".into()), "server.address");
    assert_eq!(refused(&world, &|one| one.port = 0), "server.address");
    world.enrol(Role::ProcessServer, "recovery-ps");
    assert_eq!(refused(&world, &|one| one.name = name("recovery-ps")), "server.taken");
    let mut elsewhere = request();
    elsewhere.network = "nowhere".into();
    let job = world.control.deploy_server("tester", elsewhere).unwrap();
    let (job, _) = world.finish(&job, None);
    assert_eq!(error_of(&job).code, "network.not-found");
    world.assert_gone();
    world.deploy(None);
    let again = world.control.deploy_server("tester", request()).unwrap_err();
    assert_eq!(again.error.code, "server.taken");
    let site = world.control.remove_site(&name("recovery")).unwrap_err();
    assert_eq!(site.error.code, "site.in-use");
    let by_hand = world.control.retire_server("tester", &name("recovery-ps")).unwrap_err();
    assert_eq!((by_hand.kind, by_hand.error.code.as_str()), (ErrorKind::NotFound, "server.not-made"));
}
