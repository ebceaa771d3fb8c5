//! Options and connections of commands that talk to another host.

use clap::Args;
use switchback_model::Epoch;
use switchback_replica::SessionRequest;

use crate::engine::Connect;

#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// The epoch to write under; a newer one than the replica's fences out whoever wrote before
    #[arg(long, value_name = "NUMBER")]
    epoch: Option<u64>,
}

impl NetworkArgs {
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        self.epoch.map(Epoch)
    }

    pub(crate) fn connect(&self, address: String, request: SessionRequest) -> anyhow::Result<Connect> {
        let _ = request;
        anyhow::bail!("cannot reach {address} yet")
    }
}
