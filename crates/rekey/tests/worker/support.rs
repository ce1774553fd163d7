//! A node in memory: three versions, one key, sources that can be watched, held and cut off.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use keymoot_keyring::{Keyring, Validated, stage::stage};
use keymoot_rekey::{Brake, Holder, JobState, JobView, Jobs, Keys, Manners, Released, Setup, Sources};
use keymoot_storage::{
    memory::{MemoryMetadata, MemorySource},
    metadata::{Existing, Metadata, MetadataError, Record, Stamp},
    source::{
        Cell, Chunk, IdPart, Load, Most, Preflight, Row, RowId, Selection, Snapshot, Source, SourceError,
        SourceSpec, Swap, Swapped, Total, Visit,
    },
};
use keymoot_types::{
    KeyName, KeyVersion, KeyringId, SourceName, Value, associated_data::ColumnValue, heartbeat::BootId,
    value::Form,
};
use tokio_util::sync::CancellationToken;

pub(crate) fn v(number: u32) -> KeyVersion {
    KeyVersion::new(number).unwrap()
}

pub(crate) fn key() -> KeyName {
    "pii".parse().unwrap()
}

pub(crate) fn spec(name: &str) -> SourceSpec {
    SourceSpec {
        name: name.parse().unwrap(),
        url: "memory:".into(),
        table: "customers".into(),
        id: vec!["id".into()],
        column: "ssn".into(),
        key: key(),
        associated_data: "customers/{id}".parse().unwrap(),
        accept_triggers: vec![],
        adopt: false,
        throttle_query: None,
    }
}

/// The keys of a node, which a test can rotate and seal.
pub(crate) struct TestKeys {
    versions: BTreeMap<KeyVersion, Arc<Validated>>,
    now: Mutex<(Option<Arc<Keyring>>, Vec<KeyVersion>)>,
    revision: AtomicU64,
    pub(crate) released: Mutex<Vec<Released>>,
}

impl TestKeys {
    pub(crate) fn new() -> Arc<Self> {
        let holders: Vec<_> = ["a", "b", "c"].iter().map(|name| (name.parse().unwrap(), None)).collect();
        let versions = [8, 9, 10, 11]
            .map(|n| (v(n), stage(KeyringId::new([7; 8]), v(n), 2, &holders).unwrap().validated))
            .into();
        let keys = Arc::new(Self {
            versions,
            now: Mutex::default(),
            revision: AtomicU64::new(0),
            released: Mutex::default(),
        });
        keys.serve(&[9, 10], 10);
        keys
    }

    /// The holders have consented that the values of this column become plaintext.
    pub(crate) fn release(&self, spec: &SourceSpec) {
        let released = Released { source: spec.name.clone(), declaration: spec.digest() };
        self.released.lock().unwrap().push(released);
    }

    /// The same versions on a node that has adopted the next revision.
    pub(crate) fn followed_by(&self, loaded: &[u32], primary: u32) -> Arc<Self> {
        let revision = self.revision.load(Ordering::SeqCst);
        let released = Mutex::new(self.released.lock().unwrap().clone());
        let keys =
            Self { versions: self.versions.clone(), now: Mutex::default(), revision: revision.into(), released };
        keys.serve(loaded, primary);
        Arc::new(keys)
    }

    /// What is in service from now on. Version 8 is declared and never loaded.
    pub(crate) fn serve(&self, loaded: &[u32], primary: u32) {
        let ring = self.ring(loaded, primary);
        let mut declared: Vec<_> = loaded.iter().map(|n| v(*n)).collect();
        declared.push(v(8));
        *self.now.lock().unwrap() = (Some(Arc::new(ring)), declared);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn seal(&self) {
        self.now.lock().unwrap().0 = None;
    }

    pub(crate) fn ring(&self, loaded: &[u32], primary: u32) -> Keyring {
        let versions = loaded.iter().map(|n| self.versions[&v(*n)].clone());
        Keyring::new(versions, Some(v(primary)), &[key()])
    }

    /// A value of `version` for row `id`.
    pub(crate) fn value(&self, version: u32, id: i64, text: &str) -> Vec<u8> {
        let ad = format!("customers/{id}");
        let value = self.ring(&[version], version).encrypt(&key(), text.as_bytes(), ad.as_bytes()).unwrap();
        value.to_bytes(Form::Text)
    }

    /// The version and the text of a row.
    pub(crate) fn read(&self, row: &Row) -> (u32, String) {
        let RowId(parts) = &row.id;
        let IdPart::Integer(id) = parts[0] else { panic!("{parts:?}") };
        let (value, _) = Value::parse_bytes(row.cell.bytes().unwrap()).unwrap();
        let ad = format!("customers/{id}");
        let plain = self.ring(&[8, 9, 10, 11], 11).decrypt(&key(), &value, ad.as_bytes()).unwrap();
        (value.version().get(), String::from_utf8(plain.to_vec()).unwrap())
    }
}

impl Keys for TestKeys {
    fn keyring(&self) -> Option<Arc<Keyring>> {
        self.now.lock().unwrap().0.clone()
    }

    fn declared(&self) -> Vec<KeyVersion> {
        self.now.lock().unwrap().1.clone()
    }

    fn released(&self) -> Vec<Released> {
        self.released.lock().unwrap().clone()
    }

    fn revision(&self) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }
}

/// A boot of a node, as no other.
pub(crate) fn holder(node: &str) -> Holder {
    static BOOTS: AtomicU64 = AtomicU64::new(0);
    let boot = BOOTS.fetch_add(1, Ordering::SeqCst);
    Holder { node: node.parse().unwrap(), boot: BootId(boot.to_string()) }
}

pub(crate) fn id(id: i64) -> RowId {
    RowId(vec![IdPart::Integer(id)])
}

pub(crate) fn row(n: i64, cell: Cell) -> Row {
    Row { id: id(n), cell, columns: vec![("id".into(), ColumnValue::Integer(n))] }
}

/// The moment at which a process dies: from call `at` on nothing answers any more. `late`: that call is still
/// carried out.
#[derive(Default)]
pub(crate) struct Death {
    pub(crate) at: u64,
    pub(crate) late: bool,
    woken: CancellationToken,
    calls: AtomicU64,
}

impl Death {
    pub(crate) fn never() -> Arc<Self> {
        Arc::new(Self { at: u64::MAX, ..Self::default() })
    }

    pub(crate) fn at(at: u64, late: bool) -> Arc<Self> {
        Arc::new(Self { at, late, ..Self::default() })
    }

    /// The next call is the one.
    pub(crate) fn come(&self) {
        self.calls.fetch_max(self.at, Ordering::SeqCst);
    }

    /// It was only stopped, and goes on.
    pub(crate) fn wake(&self) {
        self.woken.cancel();
    }

    pub(crate) fn dead(&self) -> bool {
        self.calls.load(Ordering::SeqCst) >= self.at
    }

    async fn call<T>(&self, call: impl Future<Output = T> + Send) -> T {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if number < self.at {
            return call.await;
        }
        if number == self.at && self.late {
            let answer = call.await;
            self.woken.cancelled().await;
            return answer;
        }
        self.woken.cancelled().await;
        call.await
    }
}

pub(crate) struct Mortal<S> {
    pub(crate) inner: S,
    pub(crate) death: Arc<Death>,
}

#[async_trait]
impl Metadata for Mortal<Arc<MemoryMetadata>> {
    async fn get(&self, key: &str) -> Result<Option<Record>, MetadataError> {
        self.death.call(self.inner.get(key)).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<Record>, MetadataError> {
        self.death.call(self.inner.list(prefix)).await
    }
    async fn put(&self, key: &str, value: &[u8]) -> Result<Stamp, MetadataError> {
        self.death.call(self.inner.put(key, value)).await
    }
    async fn swap(&self, key: &str, expected: Option<Stamp>, value: &[u8]) -> Result<Stamp, MetadataError> {
        self.death.call(self.inner.swap(key, expected, value)).await
    }
    async fn remove(&self, key: &str, expected: Stamp) -> Result<(), MetadataError> {
        self.death.call(self.inner.remove(key, expected)).await
    }
    async fn fill(&self, records: Vec<(String, Vec<u8>)>, existing: Existing) -> Result<(), MetadataError> {
        self.death.call(self.inner.fill(records, existing)).await
    }
}

/// What the application does at the moment before a batch is written.
pub(crate) type BeforeSwap = Box<dyn Fn(u64, &[Swap]) + Send + Sync>;

#[async_trait]
impl Source for Mortal<Arc<Watched>> {
    fn spec(&self) -> &SourceSpec {
        self.inner.table.spec()
    }
    async fn preflight(&self) -> Result<Preflight, SourceError> {
        self.inner.preflights.fetch_add(1, Ordering::SeqCst);
        let blockers = self.inner.blockers.lock().unwrap().clone();
        Ok(Preflight { blockers, ..self.inner.table.preflight().await? })
    }
    async fn total(&self) -> Result<Total, SourceError> {
        self.death.call(self.inner.table.total()).await
    }
    async fn chunk(&self, after: Option<&RowId>, most: Most, select: &Selection) -> Result<Chunk, SourceError> {
        self.inner.reads.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = self.inner.fault.lock().unwrap().clone() {
            return Err(error);
        }
        self.death.call(self.inner.table.chunk(after, most, select)).await
    }
    async fn read_again(&self, ids: &[RowId]) -> Result<Vec<Option<Row>>, SourceError> {
        self.death.call(self.inner.table.read_again(ids)).await
    }
    async fn swap(&self, batch: &[Swap]) -> Result<Vec<Swapped>, SourceError> {
        let number = self.inner.swaps.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(before) = &*self.inner.before_swap.lock().unwrap() {
            before(number, batch);
        }
        while self.inner.hang.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        tokio::time::sleep(self.inner.delay(number)).await;
        let held = self.inner.held.lock().unwrap().clone();
        if batch.iter().any(|swap| held.contains(&swap.id)) {
            let name = self.inner.table.spec().name.clone();
            return Err(SourceError::Unreachable { name, reason: "another transaction was in the way".into() });
        }
        let answer = self.death.call(self.inner.table.swap(batch)).await;
        let lost = self.inner.lose_answer.lock().unwrap().take_if(|at| *at == number);
        if lost.is_some() {
            let name = self.inner.table.spec().name.clone();
            return Err(SourceError::Unreachable { name, reason: "the answer was lost".into() });
        }
        answer
    }
    async fn load(&self) -> Result<Load, SourceError> {
        self.inner.loads.fetch_add(1, Ordering::SeqCst);
        while self.inner.hang_load.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.inner.load.lock().unwrap().clone()
    }
    async fn census(&self, visit: Visit<'_>) -> Result<Snapshot, SourceError> {
        self.inner.table.census(visit).await
    }
}

/// A table whose calls a test counts and gets between.
pub(crate) struct Watched {
    pub(crate) table: MemorySource,
    pub(crate) reads: AtomicU64,
    pub(crate) preflights: AtomicU64,
    pub(crate) swaps: AtomicU64,
    pub(crate) before_swap: Mutex<Option<BeforeSwap>>,
    pub(crate) fault: Mutex<Option<SourceError>>,
    pub(crate) lose_answer: Mutex<Option<u64>>,
    /// Rows that another transaction has locked.
    pub(crate) held: Mutex<Vec<RowId>>,
    pub(crate) blockers: Mutex<Vec<String>>,
    /// Writes don't answer.
    pub(crate) hang: AtomicBool,
    /// How busy the server says it is, how often it was asked, and whether it says nothing.
    pub(crate) load: Mutex<Result<Load, SourceError>>,
    pub(crate) loads: AtomicU64,
    pub(crate) hang_load: AtomicBool,
    /// How long writes take, in turn.
    pub(crate) delays_s: Mutex<Vec<u64>>,
}

/// A world that outlives its processes.
pub(crate) struct World {
    pub(crate) keys: Arc<TestKeys>,
    pub(crate) metadata: Arc<MemoryMetadata>,
    pub(crate) tables: BTreeMap<SourceName, Arc<Watched>>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) brake: Arc<TestBrake>,
}

/// A node's manners and what its services suffer, as a test wants them.
#[derive(Default)]
pub(crate) struct TestBrake {
    pub(crate) manners: Mutex<Manners>,
    pub(crate) latency: Mutex<Option<Duration>>,
}

impl Brake for TestBrake {
    fn manners(&self) -> Arc<Manners> {
        Arc::new(self.manners.lock().unwrap().clone())
    }
    fn decrypt_latency(&self) -> Option<Duration> {
        *self.latency.lock().unwrap()
    }
}

struct Opened(BTreeMap<SourceName, Arc<dyn Source>>);

impl Sources for Opened {
    fn names(&self) -> Vec<SourceName> {
        self.0.keys().cloned().collect()
    }
    fn source(&self, name: &SourceName) -> Option<Arc<dyn Source>> {
        self.0.get(name).cloned()
    }
}

impl World {
    pub(crate) fn new(names: &[&str]) -> Self {
        let tables = names.iter().map(|name| (name.parse().unwrap(), Arc::new(Watched::new(name)))).collect();
        let dir = tempfile::tempdir().unwrap();
        Self { keys: TestKeys::new(), metadata: Arc::default(), tables, dir, brake: Arc::default() }
    }

    /// One source whose plaintext is to be encrypted.
    pub(crate) fn adopting() -> Self {
        let mut world = Self::new(&[]);
        let spec = SourceSpec { adopt: true, ..spec("c.ssn") };
        world.tables.insert(spec.name.clone(), Arc::new(Watched::of(spec)));
        world
    }

    /// One source with `rows` values of v9.
    pub(crate) fn with_rows(rows: i64) -> Self {
        let world = Self::new(&["c.ssn"]);
        (1..=rows).for_each(|n| world.put(n, 9));
        world
    }

    pub(crate) fn table(&self) -> Arc<Watched> {
        self.tables.values().next().unwrap().clone()
    }

    pub(crate) fn put(&self, n: i64, version: u32) {
        self.table().table.write(row(n, Cell::Text(self.keys.value(version, n, &format!("text {n}")))));
    }

    pub(crate) fn process(&self) -> (Jobs, CancellationToken) {
        self.mortal_process(Death::never())
    }

    pub(crate) fn mortal_process(&self, death: Arc<Death>) -> (Jobs, CancellationToken) {
        self.process_on(Arc::new(Mortal { inner: self.metadata.clone(), death: death.clone() }), death)
    }

    /// The next boot of the only node.
    pub(crate) fn process_on(&self, metadata: Arc<dyn Metadata>, death: Arc<Death>) -> (Jobs, CancellationToken) {
        self.node_on("db1", metadata, death)
    }

    /// A boot of the node of that name.
    pub(crate) fn node(&self, name: &str, death: Arc<Death>) -> Jobs {
        let metadata = Arc::new(Mortal { inner: self.metadata.clone(), death: death.clone() });
        self.node_on(name, metadata, death).0
    }

    fn node_on(&self, name: &str, metadata: Arc<dyn Metadata>, death: Arc<Death>) -> (Jobs, CancellationToken) {
        let open = |table: &Arc<Watched>| -> Arc<dyn Source> {
            Arc::new(Mortal { inner: table.clone(), death: death.clone() })
        };
        let sources = self.tables.iter().map(|(name, table)| (name.clone(), open(table))).collect();
        let shutdown = CancellationToken::new();
        let jobs = Jobs::new(Setup {
            holder: holder(name),
            metadata,
            keys: self.keys.clone(),
            sources: Arc::new(Opened(sources)),
            kill_switch: self.dir.path().join("pause-rekey"),
            brake: Some(self.brake.clone()),
            shutdown: shutdown.clone(),
            runtime: tokio::runtime::Handle::current(),
        });
        (jobs, shutdown)
    }

    /// Every row is of `version` and holds what was put there.
    pub(crate) fn all_are(&self, version: u32) {
        for row in self.table().table.rows() {
            let RowId(parts) = &row.id;
            let IdPart::Integer(n) = parts[0] else { panic!("{parts:?}") };
            assert_eq!(self.keys.read(&row), (version, format!("text {n}")));
        }
    }
}

impl Watched {
    fn new(name: &str) -> Self {
        Self::of(spec(name))
    }

    pub(crate) fn of(spec: SourceSpec) -> Self {
        Self {
            table: MemorySource::new(spec),
            reads: AtomicU64::new(0),
            preflights: AtomicU64::new(0),
            swaps: AtomicU64::new(0),
            before_swap: Mutex::default(),
            fault: Mutex::default(),
            lose_answer: Mutex::default(),
            held: Mutex::default(),
            blockers: Mutex::default(),
            hang: AtomicBool::new(false),
            load: Mutex::new(Ok(Load::default())),
            loads: AtomicU64::new(0),
            hang_load: AtomicBool::new(false),
            delays_s: Mutex::default(),
        }
    }

    fn delay(&self, number: u64) -> Duration {
        let delays = self.delays_s.lock().unwrap();
        let turn = (number - 1) % (delays.len() as u64).max(1);
        Duration::from_secs(delays.get(turn as usize).copied().unwrap_or_default())
    }
}

pub(crate) async fn until(jobs: &Jobs, id: keymoot_rekey::JobId, what: impl Fn(&JobView) -> bool) -> JobView {
    for _ in 0..20_000 {
        let view = jobs.view(id).await.unwrap();
        if what(&view) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never came: {:#?}", jobs.view(id).await.unwrap());
}

pub(crate) async fn ended(jobs: &Jobs, id: keymoot_rekey::JobId) -> JobView {
    until(jobs, id, |view| view.state.ended()).await
}

/// Each row visited is in one class, and the classes add up.
pub(crate) fn adds_up(view: &JobView) {
    for s in &view.sources {
        let classes = s.rekeyed + s.current + s.null + s.empty + s.foreign + s.gone + s.quarantined;
        assert_eq!(classes, s.scanned, "{s:#?}");
    }
}

pub(crate) fn completed(view: &JobView) {
    assert_eq!(view.state, JobState::Completed, "{view:#?}");
}
