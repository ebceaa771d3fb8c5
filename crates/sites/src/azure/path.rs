//! Which way leads to the storage account: the one that its site was told, or another one that nobody wants to pay for, or to trust.
//!
//! What it is: the addresses that the account's name has here, held against the path that was chosen. What it never does: route. Names may have other
//! addresses elsewhere, so this is done at the configuration server, which asks storage for the site, and at the master target, which writes replicas.
//!
//! A private endpoint, and ExpressRoute with private peering (which leads to one), have an address of the virtual network; the public endpoint, and ExpressRoute
//! with Microsoft peering, have a public one ("Use private endpoints for Azure Storage", "ExpressRoute circuits and peering", Azure documentation).

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use switchback_model::azure::{NetworkPath, Peering};
use switchback_model::{CheckState, ReadinessCheck};

/// How long a name may take: resolvers try several servers several times. One that takes longer ends by itself, with nobody waiting.
const RESOLVE_MAX: Duration = Duration::from_secs(15);

/// Whether the chosen path leads to the account from this host, as the check `check` (code and title). Blocks for some seconds when names cannot be resolved.
#[must_use]
pub fn check(check: (&str, &str), path: NetworkPath, container: &str) -> ReadinessCheck {
    let Some((host, port)) = place_of(container) else {
        return ReadinessCheck::raised(
            CheckState::Unknown,
            check,
            format!("{container} names no host"),
            "",
            "",
        );
    };
    match within(RESOLVE_MAX, (host.clone(), port), |place| place.to_socket_addrs().map(Vec::from_iter)) {
        Ok(found) => {
            judge(check, path, &host, &found.iter().map(std::net::SocketAddr::ip).collect::<Vec<_>>())
        }
        Err(error) => ReadinessCheck::raised(
            CheckState::Failed,
            check,
            format!("the name {host} has no address here: {error}"),
            "DNS is not reached, or its private zone does not know the account",
            "look at this host's DNS; with a private endpoint, link the zone privatelink.blob.core.windows.net to the network it asks",
        ),
    }
}

/// What `resolve` finds, on a thread of its own, if that does not take longer than `limit`.
fn within<T: Send + 'static>(
    limit: Duration,
    place: (String, u16),
    resolve: impl FnOnce(&(String, u16)) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (found, finding) = sync_channel(1);
    let look = move || {
        // Nobody waits any more when that fails.
        let _ = found.send(resolve(&place));
    };
    std::thread::Builder::new().name("resolve".into()).spawn(look)?;
    finding.recv_timeout(limit).unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs_f32())))
    })
}

fn place_of(container: &str) -> Option<(String, u16)> {
    let url = url::Url::parse(container).ok()?;
    Some((url.host_str()?.trim_matches(['[', ']']).to_owned(), url.port_or_known_default()?))
}

fn judge(check: (&str, &str), path: NetworkPath, host: &str, addresses: &[IpAddr]) -> ReadinessCheck {
    let shown = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let facts = format!("{path}: {host} is {shown}");
    let public = addresses.iter().any(|address| !is_private(*address));
    let private = addresses.iter().any(|address| is_private(*address) && !address.is_loopback());
    match path {
        NetworkPath::PrivateEndpoint | NetworkPath::ExpressRoute { peering: Peering::Private } if public => {
            ReadinessCheck::raised(
                CheckState::Failed,
                check,
                format!("{facts}, which is public"),
                "the private DNS zone of the endpoint is not asked from here: replication would go over the internet",
                "link the zone privatelink.blob.core.windows.net to the network whose DNS this host asks, or forward to it; or choose another `storagePath`",
            )
        }
        NetworkPath::PublicEndpoint | NetworkPath::ExpressRoute { peering: Peering::Microsoft }
            if private =>
        {
            ReadinessCheck::raised(
                CheckState::Warning,
                check,
                format!("{facts}, which is private"),
                "a private endpoint's DNS zone is asked from here: replication goes that way",
                "if that is meant, say so: `storagePath`",
            )
        }
        _ => ReadinessCheck::passed(check.0, check.1, facts),
    }
}

/// Of RFC 1918, RFC 4193, or this host.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: (&str, &str) = ("site.network-path", "t");

    fn state(path: NetworkPath, address: &str) -> CheckState {
        judge(CHECK, path, "account.blob.core.windows.net", &[address.parse().unwrap()]).state
    }

    #[test]
    fn a_path_is_held_against_the_addresses_that_there_are() {
        let route = |peering| NetworkPath::ExpressRoute { peering };
        let (public, private) = ("20.60.1.2", "10.20.3.4");
        for path in [NetworkPath::PrivateEndpoint, route(Peering::Private)] {
            assert_eq!(state(path, private), CheckState::Passed);
            assert_eq!(state(path, "fd00::1"), CheckState::Passed);
            assert_eq!(state(path, public), CheckState::Failed);
        }
        for path in [NetworkPath::PublicEndpoint, route(Peering::Microsoft)] {
            assert_eq!(state(path, public), CheckState::Passed);
            assert_eq!(state(path, "127.0.0.1"), CheckState::Passed, "an emulator's");
            assert_eq!(state(path, private), CheckState::Warning);
        }
        let both = [public, private].map(|address| address.parse().unwrap());
        let told = judge(CHECK, NetworkPath::PrivateEndpoint, "a", &both);
        assert_eq!(told.state, CheckState::Failed, "one of them is enough to go astray");
        assert!(format!("{told:?}").contains("20.60.1.2, 10.20.3.4"), "{told:?}");
    }

    #[test]
    fn a_name_without_an_address_is_told() {
        let told = check(CHECK, NetworkPath::PrivateEndpoint, "https://switchback-nowhere.invalid/replicas");
        assert_eq!(told.state, CheckState::Failed);
        assert!(format!("{told:?}").contains("privatelink.blob.core.windows.net"), "{told:?}");
        assert_eq!(
            check(CHECK, NetworkPath::PublicEndpoint, "http://127.0.0.1:10000/a/c").state,
            CheckState::Passed
        );
    }

    #[test]
    fn a_name_that_takes_too_long_is_not_waited_for() {
        let (held, holding) = sync_channel::<()>(1);
        let place = ("a".to_owned(), 443);
        let slow = within(Duration::from_millis(50), place.clone(), move |_| {
            // Until the test has looked.
            let _ = holding.recv();
            Ok(())
        });
        assert_eq!(slow.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(held);
        let port = within(Duration::from_secs(60), place, |(_, port)| Ok(*port));
        assert_eq!(port.unwrap(), 443);
    }
}
