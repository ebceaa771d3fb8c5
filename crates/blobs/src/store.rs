//! The store: each operation is one call of the official client, run to its end on this crate's runtime.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant};

use azure_core::http::Etag;
use azure_storage_blob::models::{
    BlobClientAcquireLeaseOptions, BlobClientBreakLeaseOptions, BlobClientCreateSnapshotOptions,
    BlobClientCreateSnapshotResultHeaders, BlobClientDeleteOptions, BlobClientDownloadOptions,
    BlobClientGetPropertiesResultHeaders, BlobContainerClientListBlobsOptions,
    BlockBlobClientCommitBlockListOptions, BlockBlobClientCommitBlockListResultHeaders,
    BlockBlobClientStageBlockOptions, BlockBlobClientUploadOptions, BlockLookupList, CopyStatus,
    DeleteSnapshotsOptionType, HttpRange, ListBlobsIncludeItem, PageBlobClientClearPagesOptions,
    PageBlobClientCreateOptions, PageBlobClientListPageRangesOptions, PageBlobClientUploadPagesOptions,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use md5::{Digest as _, Md5};
use switchback_model::Extent;
use switchback_replica::store::{BlobEntry, BlobError, BlobStore, ETag, LeaseId, PutIf, SnapshotId};
use tokio::runtime::Runtime;

use crate::access::client_options;
use crate::error::blob_error;
use crate::{Credentials, Location};

/// Bytes of a block blob that go in one request; longer ones go as blocks, committed as one. A request that breaks off is sent again whole.
const BLOCK: usize = 16 << 20;
/// Those under way at a time.
const BLOCKS_AT_A_TIME: usize = 2;
/// Bytes of a read that go in one request.
const PART_OF_READ: NonZero<usize> = NonZero::new(16 << 20).expect("not zero");
/// Pause between looks at a copy.
const COPY_LOOK: Duration = Duration::from_millis(500);

/// Lets so many bytes pass to the store, when it is their time: a limit of bandwidth. Called on the caller's thread before each write.
pub type Pace = dyn Fn(u64) + Send + Sync;

/// How a store is used.
#[derive(Clone)]
pub struct StoreConfig {
    /// How long a request is tried again before the store counts as unavailable.
    pub retry_max: Duration,
    /// How long a copy in the store may take.
    pub copy_max: Duration,
    /// Limits what is written.
    pub pace: Option<Arc<Pace>>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { retry_max: Duration::from_mins(1), copy_max: Duration::from_hours(1), pace: None }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (retry_max, copy_max) = (self.retry_max, self.copy_max);
        f.debug_struct("StoreConfig")
            .field("retry_max", &retry_max)
            .field("copy_max", &copy_max)
            .finish_non_exhaustive()
    }
}

/// Why a store cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenStoreError {
    /// The location has no SAS, and nothing else was given.
    #[error("{location} has no SAS behind it, and no identity is configured: give one of them")]
    NoCredentials {
        /// The container and the folder.
        location: String,
    },
    /// The credentials cannot be used.
    #[error("the credentials cannot be used: {detail}")]
    Credentials {
        /// Why.
        detail: String,
    },
    /// TLS, threads.
    #[error("the client of the storage account cannot be made: {detail}")]
    Client {
        /// Why.
        detail: String,
    },
}

/// One replica's folder in a container of an Azure storage account.
pub struct AzureStore {
    location: Location,
    container: BlobContainerClient,
    config: StoreConfig,
    runtime: Runtime,
}

impl fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AzureStore").field(&self.location).finish()
    }
}

impl AzureStore {
    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`OpenStoreError`].
    pub fn open(
        location: Location,
        credentials: &Credentials,
        config: StoreConfig,
    ) -> Result<Self, OpenStoreError> {
        let options = client_options(config.retry_max)?;
        let unusable = |error: azure_core::Error| OpenStoreError::Credentials { detail: error.to_string() };
        let token = credentials.token(options.clone()).map_err(unusable)?;
        let mut url = location.container.clone();
        match (&token, &location.sas) {
            (None, None) => {
                return Err(OpenStoreError::NoCredentials { location: location.name().into() });
            }
            (None, Some(sas)) => url.set_query(Some(sas.expose())),
            (Some(_), _) => {}
        }
        let options = BlobContainerClientOptions { client_options: options, ..Default::default() };
        let container = BlobContainerClient::new(url, token, Some(options)).map_err(|error| {
            OpenStoreError::Client { detail: format!("{}: {:?}", location.name(), error.kind()) }
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("blobs")
            .enable_all()
            .build()
            .map_err(|error| OpenStoreError::Client { detail: error.to_string() })?;
        Ok(Self { location, container, config, runtime })
    }

    /// Makes the container if it is not there.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn ensure_container(&self) -> Result<(), BlobError> {
        match self.call("", "making the container of", self.container.create(None)) {
            Err(BlobError::Refused { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn client(&self, blob: &str) -> BlobClient {
        self.container.blob_client(&format!("{}/{blob}", self.location.prefix))
    }

    fn call<T>(
        &self,
        blob: &str,
        action: &str,
        call: impl Future<Output = Result<T, azure_core::Error>>,
    ) -> Result<T, BlobError> {
        let done = self.runtime.block_on(call);
        done.map_err(|error| blob_error(blob, action, &error))
    }

    fn pace(&self, bytes: usize) {
        if let Some(pace) = &self.config.pace {
            pace(bytes as u64);
        }
    }

    fn read_by(&self, client: &BlobClient, blob: &str, extent: Extent) -> Result<Bytes, BlobError> {
        let len = usize::try_from(extent.len).map_err(|_| BlobError::Failed {
            action: format!("reading {blob}"),
            detail: "too much".into(),
        })?;
        let options = BlobClientDownloadOptions {
            range: Some(range(extent)),
            partition_size: Some(PART_OF_READ),
            ..Default::default()
        };
        let mut data = vec![0; len];
        let read = self.call(blob, "reading", client.download_into(&mut data, Some(options)))?;
        if read.len == len { Ok(data.into()) } else { Err(BlobError::Short { blob: blob.into() }) }
    }

    fn at_snapshot(&self, blob: &str, snapshot: &SnapshotId) -> Result<BlobClient, BlobError> {
        self.client(blob)
            .with_snapshot(&snapshot.0)
            .map_err(|error| blob_error(blob, "finding a snapshot of", &error))
    }

    /// Puts a long block blob: blocks, each of which the store judges by its MD5 (the client's own `upload` sends none), then their list, on the options'
    /// conditions. A block's name is its place and its contents, so one that was given up and arrives late changes nothing.
    async fn put_blocks(
        &self,
        blob: &str,
        data: &Bytes,
        options: BlockBlobClientCommitBlockListOptions<'_>,
    ) -> Result<Option<ETag>, azure_core::Error> {
        let client = self.client(blob).block_blob_client();
        let starts = (0_u32..).zip((0..data.len()).step_by(BLOCK));
        let stage = |(number, start): (u32, usize)| {
            let (client, block) = (&client, data.slice(start..data.len().min(start + BLOCK)));
            async move {
                let md5 = Md5::digest(&block).to_vec();
                let name = [&number.to_be_bytes()[..], &md5].concat();
                let options = BlockBlobClientStageBlockOptions {
                    transactional_content_md5: Some(md5),
                    ..Default::default()
                };
                client.stage_block(&name, block.len() as u64, block.into(), Some(options)).await?;
                Ok::<_, azure_core::Error>(name)
            }
        };
        let names = futures::stream::iter(starts.map(stage)).buffered(BLOCKS_AT_A_TIME);
        let list = BlockLookupList { latest: Some(names.try_collect().await?), ..Default::default() };
        let committed = client.commit_block_list(list.try_into()?, Some(options)).await?;
        Ok(committed.etag()?.map(|etag| ETag(etag.to_string())))
    }

    async fn copied(&self, target: &BlobClient, started: Instant) -> Result<bool, azure_core::Error> {
        loop {
            let status = target.get_properties(None).await?.copy_status()?;
            match status {
                None | Some(CopyStatus::Success) => return Ok(true),
                Some(CopyStatus::Pending) if started.elapsed() < self.config.copy_max => {
                    tokio::time::sleep(COPY_LOOK).await;
                }
                Some(_) => return Ok(false),
            }
        }
    }
}

/// A lease as the protocol has it: a UUID.
fn uuid(lease: LeaseId) -> String {
    let hex: Vec<_> = lease.0.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]].map(<[String]>::concat).join("-")
}

fn range(extent: Extent) -> HttpRange {
    HttpRange::from(extent.start..extent.end())
}

fn no_etag(blob: &str) -> BlobError {
    BlobError::Failed { action: format!("reading the answer about {blob}"), detail: "it has no ETag".into() }
}

impl BlobStore for AzureStore {
    fn name(&self) -> &str {
        self.location.name()
    }

    fn put(&self, blob: &str, data: &Bytes, condition: &PutIf) -> Result<ETag, BlobError> {
        self.pace(data.len());
        let (if_match, if_none_match) = match condition {
            PutIf::Absent => (None, Some(Etag::from("*"))),
            PutIf::Unchanged(etag) => (Some(Etag::from(etag.0.clone())), None),
        };
        if data.len() > BLOCK {
            let options =
                BlockBlobClientCommitBlockListOptions { if_match, if_none_match, ..Default::default() };
            return self
                .call(blob, "putting", self.put_blocks(blob, data, options))?
                .ok_or_else(|| no_etag(blob));
        }
        let options = BlockBlobClientUploadOptions {
            if_match,
            if_none_match,
            partition_size: NonZero::new(BLOCK as u64),
            ..Default::default()
        };
        let client = self.client(blob);
        let uploaded = self.call(blob, "putting", client.upload(data.clone().into(), Some(options)))?;
        uploaded.etag.map(|etag| ETag(etag.to_string())).ok_or_else(|| no_etag(blob))
    }

    fn get(&self, blob: &str) -> Result<(Bytes, ETag), BlobError> {
        let client = self.client(blob);
        let options = BlobClientDownloadOptions { partition_size: Some(PART_OF_READ), ..Default::default() };
        self.call(blob, "reading", async {
            let answer = client.download(Some(options)).await?;
            let etag = answer.properties.etag.clone();
            Ok((answer.body.collect().await?, etag))
        })
        .and_then(|(data, etag)| Ok((data, ETag(etag.ok_or_else(|| no_etag(blob))?.to_string()))))
    }

    fn read(&self, blob: &str, extent: Extent) -> Result<Bytes, BlobError> {
        self.read_by(&self.client(blob), blob, extent)
    }

    fn read_snapshot(&self, blob: &str, snapshot: &SnapshotId, extent: Extent) -> Result<Bytes, BlobError> {
        self.read_by(&self.at_snapshot(blob, snapshot)?, blob, extent)
    }

    fn list(&self, prefix: &str) -> Result<Vec<BlobEntry>, BlobError> {
        let folder = format!("{}/", self.location.prefix);
        let options = BlobContainerClientListBlobsOptions {
            prefix: Some(format!("{folder}{prefix}")),
            include: Some(vec![ListBlobsIncludeItem::Snapshots, ListBlobsIncludeItem::Metadata]),
            ..Default::default()
        };
        let items = self.call(prefix, "listing", async {
            self.container.list_blobs(Some(options))?.try_collect::<Vec<_>>().await
        })?;
        let entry = |item: azure_storage_blob::models::BlobItem| {
            Some(BlobEntry {
                name: item.name?.strip_prefix(&folder)?.to_owned(),
                snapshot: item.snapshot.filter(|id| !id.is_empty()).map(SnapshotId),
                metadata: item.metadata.and_then(|of| of.values).into_iter().flatten().collect(),
            })
        };
        Ok(items.into_iter().filter_map(entry).collect())
    }

    fn delete(&self, blob: &str, lease: Option<LeaseId>) -> Result<(), BlobError> {
        let options = BlobClientDeleteOptions {
            delete_snapshots: Some(DeleteSnapshotsOptionType::Include),
            lease_id: lease.map(uuid),
            ..Default::default()
        };
        match self.call(blob, "deleting", self.client(blob).delete(Some(options))) {
            Err(BlobError::Missing { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn create_pages(&self, blob: &str, size: u64) -> Result<(), BlobError> {
        let client = self.client(blob).page_blob_client();
        let options =
            PageBlobClientCreateOptions { if_none_match: Some(Etag::from("*")), ..Default::default() };
        self.call(blob, "making", client.create(size, Some(options))).map(drop)
    }

    fn write_pages(
        &self,
        blob: &str,
        lease: Option<LeaseId>,
        offset: u64,
        data: Bytes,
    ) -> Result<(), BlobError> {
        self.pace(data.len());
        let client = self.client(blob).page_blob_client();
        let options = PageBlobClientUploadPagesOptions { lease_id: lease.map(uuid), ..Default::default() };
        let (len, at) = (data.len() as u64, range(Extent::new(offset, data.len() as u64)));
        let body = data.into();
        self.call(blob, "writing", client.upload_pages(body, len, at, Some(options))).map(drop)
    }

    fn clear_pages(&self, blob: &str, lease: Option<LeaseId>, extent: Extent) -> Result<(), BlobError> {
        let client = self.client(blob).page_blob_client();
        let options = PageBlobClientClearPagesOptions { lease_id: lease.map(uuid), ..Default::default() };
        self.call(blob, "clearing", client.clear_pages(range(extent), Some(options))).map(drop)
    }

    fn allocated(&self, blob: &str, window: Extent) -> Result<Vec<Extent>, BlobError> {
        let client = self.client(blob).page_blob_client();
        let options =
            PageBlobClientListPageRangesOptions { range: Some(range(window)), ..Default::default() };
        let lists = self.call(blob, "listing the pages of", async {
            let pages = client.list_page_ranges(Some(options))?;
            pages.and_then(async |page| page.into_model()).try_collect::<Vec<_>>().await
        })?;
        let ranges = lists.into_iter().flat_map(|list| list.page_ranges);
        let extent = |page: azure_storage_blob::models::PageRange| {
            let (start, end) = (u64::try_from(page.start?).ok()?, u64::try_from(page.end?).ok()?);
            Some(Extent::checked(start, (end + 1).checked_sub(start)?)?.intersection(window))
        };
        Ok(ranges.filter_map(extent).filter(|extent| !extent.is_empty()).collect())
    }

    fn snapshot(
        &self,
        blob: &str,
        lease: Option<LeaseId>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<SnapshotId, BlobError> {
        let metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let options = BlobClientCreateSnapshotOptions {
            lease_id: lease.map(uuid),
            metadata: Some(metadata),
            ..Default::default()
        };
        let client = self.client(blob);
        let id = self.call(blob, "taking a snapshot of", async {
            client.create_snapshot(Some(options)).await?.snapshot()
        })?;
        id.map(SnapshotId).ok_or_else(|| no_etag(blob))
    }

    fn delete_snapshot(&self, blob: &str, snapshot: &SnapshotId) -> Result<(), BlobError> {
        let client = self.at_snapshot(blob, snapshot)?;
        match self.call(blob, "deleting a snapshot of", client.delete(None)) {
            Err(BlobError::Missing { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn clone_snapshot(&self, blob: &str, snapshot: &SnapshotId, target: &str) -> Result<(), BlobError> {
        let source = self.at_snapshot(blob, snapshot)?;
        let copy = self.client(target);
        let done = self.call(blob, "copying", async {
            let started = Instant::now();
            copy.start_copy_from_url(source.url().to_string(), None).await?;
            self.copied(&copy, started).await
        })?;
        if done {
            return Ok(());
        }
        let detail = format!("the copy to {target} failed, or took longer than {:?}", self.config.copy_max);
        Err(BlobError::Failed { action: format!("copying a snapshot of {blob}"), detail })
    }

    fn acquire_lease(&self, blob: &str, lease: LeaseId) -> Result<(), BlobError> {
        let options =
            BlobClientAcquireLeaseOptions { proposed_lease_id: Some(uuid(lease)), ..Default::default() };
        // Without end: it is released, or broken by who takes over.
        self.call(blob, "taking the lease of", self.client(blob).acquire_lease(-1, Some(options))).map(drop)
    }

    /// Azure lets a change happen again: it asks for either of the two (Lease Blob, outcomes of operations by lease state).
    fn change_lease(&self, blob: &str, from: LeaseId, to: LeaseId) -> Result<(), BlobError> {
        let client = self.client(blob);
        self.call(blob, "changing the lease of", client.change_lease(uuid(from), uuid(to), None)).map(drop)
    }

    fn release_lease(&self, blob: &str, lease: LeaseId) -> Result<(), BlobError> {
        match self.call(blob, "releasing the lease of", self.client(blob).release_lease(uuid(lease), None)) {
            Err(BlobError::Refused { .. } | BlobError::Missing { .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    fn break_lease(&self, blob: &str) -> Result<(), BlobError> {
        let options = BlobClientBreakLeaseOptions { break_period: Some(0), ..Default::default() };
        match self.call(blob, "breaking the lease of", self.client(blob).break_lease(Some(options))) {
            Err(BlobError::Refused { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}
