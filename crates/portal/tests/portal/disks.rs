//! Disks of a machine: how they stand on its page, and that they come and go by its forms.

use switchback_model::component::SeededDisk;
use switchback_model::{AccessRole, DiskIndex};
use switchback_sites::MachineDisk;

use crate::browser::Server;

const MACHINE: &str = "/portal/machines/web01";

#[tokio::test]
async fn a_disk_is_added_and_removed_by_forms_and_the_page_says_how_it_stands() {
    let mut server = Server::new();
    server.protect();
    let none = server
        .signed_in("first", AccessRole::Contributor)
        .await
        .page("/portal/machines/web01/add-disk")
        .await;
    assert!(none.contains("no further disk") && !none.contains("name=\"disk\""), "{none}");
    let disk =
        |serial: &str| MachineDisk { path: "/home/web01/new".into(), size: 1 << 20, serial: serial.into() };
    server.world.home.change_disks("web01", |disks| disks.extend([disk("n<e>w"), disk("")]));
    server.world.round();
    server.world.seeds_slowly = true;

    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page(MACHINE).await;
    assert!(page.contains("id=\"do-add-disk\"") && page.contains("id=\"do-remove-disk\""), "{page}");
    let page = anna.page("/portal/machines/web01/add-disk").await;
    assert_eq!(page.matches("<option").count(), 1, "{page}");
    assert!(page.contains("value=\"n&#60;e&#62;w\""), "{page}");
    let sent = anna.post("/portal/machines/web01/add-disk", &[("disk", "n<e>w"), ("datastore", "")]).await;
    assert_eq!(sent.location(), MACHINE);
    drop(anna);
    server.settle();
    server.world.seeded = vec![SeededDisk { disk: DiskIndex(2), bytes: 440 << 10 }];
    (0..3).for_each(|_| server.world.round());
    let mut anna = server.signed_in("again", AccessRole::Contributor).await;
    let page = anna.page(MACHINE).await;
    assert!(page.contains("initial replication: no recovery point holds it yet"), "{page}");
    assert_eq!(page.matches("follows its changes").count(), 2, "{page}");
    assert!(page.contains("value=\"42\" aria-label=\"Progress of disk 3\""), "{page}");
    drop(anna);
    server.world.seeds_slowly = false;
    (0..5).for_each(|_| server.world.round());
    let mut anna = server.signed_in("third", AccessRole::Contributor).await;
    let page = anna.page(MACHINE).await;
    assert_eq!(page.matches("follows its changes").count(), 3, "{page}");

    let page = anna.page("/portal/machines/web01/remove-disk").await;
    assert!(
        !page.contains("value=\"d0\"") && page.contains("value=\"d1\""),
        "it boots from the first: {page}"
    );
    assert!(page.contains("no one holds it any more"), "{page}");
    let sent = anna.post("/portal/machines/web01/remove-disk", &[("disk", "n<e>w")]).await;
    assert_eq!(sent.location(), MACHINE);
    drop(anna);
    server.settle();
    let page = server.signed_in("last", AccessRole::Operator).await.page(MACHINE).await;
    assert_eq!(page.matches("follows its changes").count(), 2, "{page}");
    assert!(!page.contains("do-add-disk") && !page.contains("do-remove-disk"), "an Operator's: {page}");
}
