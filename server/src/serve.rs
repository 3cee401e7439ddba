//! Lifecycle: start spine first, serve, stop front door first.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, Uri};
use nilometer_access::{Accounted, Buffers, KeyBook, KeyKind, KeyOptions, Keys, Problem, Status};
use nilometer_event::clock::{Clock, HouseClock};
use nilometer_log::{Log, step_back};
use nilometer_rollups::{FoldLimits, Pace};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle as Task;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::answers;
use crate::cli::Sources;
use crate::clock;
use crate::config::{self, Secrets, Settings};
use crate::descriptors;
use crate::front;
use crate::http::{self as listener, ListenerPlan};
use crate::keyring::{self, Edit, InForce, Keyring, Made};
use crate::lock::DataDirLock;
use crate::memory::Shares;
use crate::output;
use crate::scrub;
use crate::sent_today::SentToday;
use crate::wiring::{self, Rooms};

/// A sign-in address that a terminal shows is good for this long.
const SHOWN_CODE_TTL_MS: i64 = 24 * 3_600_000;
/// One that may be kept as a log or lies in a file.
const WRITTEN_CODE_TTL_MS: i64 = 3_600_000;
/// What still runs on threads of the runtime after the stop may take this long.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a changed book of keys is looked for; revoking takes at most 5 s.
const BOOK_INTERVAL: Duration = Duration::from_secs(1);

/// `nilometer serve`.
///
/// # Errors
///
/// When the server cannot start, or did not stop cleanly.
pub(crate) fn run(sources: &Sources) -> Result<()> {
    let settings = config::load(sources)?;
    block_on(async move {
        let mut house = House::start(settings, Secrets::from_environment()).await?;
        let announced = house.announce().await;
        if announced.is_ok() {
            house.until_stopped().await;
        }
        let stopped = house.stop().await;
        announced.and(stopped)
    })
}

/// Runs the house on a runtime of its own.
///
/// # Errors
///
/// What `work` answers.
pub(crate) fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("house")
        .build()
        .context("start the runtime")?;
    let answer = runtime.block_on(work);
    // Everything that matters has ended by now: a read that the disk does not answer is left.
    runtime.shutdown_timeout(LEFTOVERS_TIMEOUT);
    answer
}

/// A running house.
pub(crate) struct House {
    settings: Settings,
    address: SocketAddr,
    rooms: Rooms,
    keyring: Arc<Keyring>,
    in_force: Arc<InForce>,
    first: Option<FirstKeys>,
    /// Ends the listener.
    stop_door: CancellationToken,
    /// Ends live subscriptions and small tasks.
    stop_reading: CancellationToken,
    serving: Task<()>,
    watching: Task<()>,
    folding: Folding,
    sent_today: Arc<SentToday>,
    signals: Signals,
    _lock: DataDirLock,
}

/// What a first start made. It is in force, and kept once it was shown.
struct FirstKeys {
    edit: Edit,
    made: Vec<Made>,
}

/// What asks for an orderly stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// So many layers of each shard are folded before the interval is over: with the default intervals
/// two come.
const LAYERS_MANY: usize = 8;

/// The thread that folds layers into the base.
struct Folding {
    stop: mpsc::Sender<()>,
    /// Nothing comes through it; it closes when the thread ends.
    ended: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

impl House {
    /// Opens the door at once, answering "not ready", and then the rooms behind it.
    ///
    /// # Errors
    ///
    /// What cannot be opened, by name; nothing is left running.
    pub(crate) async fn start(settings: Settings, secrets: Secrets) -> Result<Self> {
        // Before anything is made: what cannot be meant leaves no folder behind.
        wiring::check(&settings, &secrets)?;
        let address = config::listen_address(&settings)?;
        let lock = hold(&settings.server.data_dir)?;
        let listener = listener::bind(address).await?;
        let address = listener.local_addr().context("read the address")?;
        let keyring = Arc::new(Keyring::open(&settings.server.data_dir)?);
        let now_ms = HouseClock::default().now().ms();
        let keys = Arc::new(Keys::new(KeyBook::new()));
        let in_force = Arc::new(keyring.at_start(Arc::clone(&keys), &secrets, now_ms)?);

        let (stop_door, stop_reading) = (CancellationToken::new(), CancellationToken::new());
        let app = Arc::new(OnceLock::new());
        let connections_max = connections_max(&settings);
        let quotas = quotas(&settings, connections_max)?;
        let sent_today = SentToday::resume(&settings.server.data_dir, &quotas, now_ms)?;
        let exchanges = Buffers::new(Shares::of(&settings).exchanges);
        let serving = tokio::spawn(listener::serve(
            listener,
            front_door(&settings, &app, exchanges.clone()),
            Arc::clone(&quotas),
            listener_plan(&settings, connections_max, exchanges.clone()),
            stop_door.clone(),
            Duration::from_secs(u64::from(settings.server.shutdown_timeout_s) / 3 + 1),
        ));
        let rooms = {
            let (settings, keyring, keys) =
                (settings.clone(), Arc::clone(&keyring), Arc::clone(&keys));
            let stop = stop_reading.clone();
            tokio::task::spawn_blocking(move || {
                wiring::open(&settings, &keyring, keys, quotas, exchanges, stop)
            })
            .await
            .context("open the rooms")??
        };
        // Last, after all that can fail: what is made is shown.
        let first = make_first(&keyring, &in_force, &secrets, now_ms).await?;
        // A stop is orderly from the first answer on; before it, it would wait for the recovery.
        let signals = Signals::catch().context("catch signals")?;
        ensure!(app.set(front::last_word(routes(&rooms))).is_ok(), "the curtain was opened twice");
        let folding = Folding::start(&rooms, &settings)?;
        let watching = tokio::spawn(watch_book(Arc::clone(&in_force), stop_reading.clone()));
        tokio::spawn(clock::watch(Arc::clone(&rooms.clock), stop_reading.clone()));
        sent_today.keep_until(&rooms.clock, &stop_reading);
        tokio::spawn(scrub::run(Arc::clone(&rooms.log) as Arc<dyn Log>, stop_reading.clone()));
        tokio::spawn(scrub::base(Arc::clone(&rooms.store), stop_reading.clone()));
        tracing::info!(%address, data_dir = %settings.server.data_dir.display(), "server ready");
        notify(&[sd_notify::NotifyState::Ready]);
        Ok(Self {
            settings,
            address,
            rooms,
            keyring,
            in_force,
            first,
            stop_door,
            stop_reading,
            serving,
            watching,
            folding,
            sent_today,
            signals,
            _lock: lock,
        })
    }

    /// Where the server is reached.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An address that signs a browser in, once; where there can be none, the log says why.
    pub(crate) fn sign_in_url(&self) -> Option<String> {
        let url = self.try_sign_in_url();
        url.inspect_err(|error| tracing::warn!("no sign-in address: {error:#}")).ok()
    }

    fn try_sign_in_url(&self) -> Result<String> {
        let book = self.rooms.keys.load();
        let admin = book
            .records()
            .iter()
            .find(|record| record.kind == KeyKind::Admin && record.is_in_force())
            .context("no admin token is in force; make one with `nilometer keys create admin`")?;
        let ttl_ms = if output::is_terminal() { SHOWN_CODE_TTL_MS } else { WRITTEN_CODE_TTL_MS };
        let code = self.rooms.codes.issue(&admin.id, self.rooms.clock.now().ms(), ttl_ms)?;
        Ok(format!("{}/#code={}", self.url(), code.expose()))
    }

    /// A write key for the demo's own audience, in place of the one of an earlier start.
    ///
    /// # Errors
    ///
    /// When the book is full or cannot be written.
    pub(crate) async fn demo_write_key(&self) -> Result<String> {
        const GIVER: &str = "demo";
        let now_ms = self.rooms.clock.now().ms();
        let mut edit = edit(&self.keyring).await?;
        edit.book.retire(GIVER, &[], now_ms);
        let options = KeyOptions {
            server: true,
            given_by: Some(GIVER.to_owned()),
            ..KeyOptions::from(GIVER)
        };
        let (_, token) = edit.book.create(KeyKind::Write, options, now_ms)?;
        edit.keep()?;
        self.in_force.put(&edit);
        Ok(token.expose().to_owned())
    }

    /// Prints where the house is, and how to come in: to a person at every start, else where the
    /// keys are new, for what is printed may be kept as a log.
    async fn announce(&mut self) -> Result<()> {
        let before = format!("Nilometer listens on {}\n", self.url());
        let mut sign_in = String::new();
        if (output::is_terminal() || self.first.is_some())
            && let Some(url) = self.sign_in_url()
        {
            sign_in = format!("\nThe dashboard, signed in: {url}\n");
        }
        self.greet(&before, &sign_in, "").await
    }

    /// Prints a text, and within it this once the keys that were made, with the way to sign in.
    /// Only what somebody can see is kept: else the keys end here, and the next start makes
    /// others.
    ///
    /// # Errors
    ///
    /// When keys that can be seen cannot be kept.
    pub(crate) async fn greet(&mut self, before: &str, sign_in: &str, after: &str) -> Result<()> {
        let Some(FirstKeys { mut edit, made }) = self.first.take() else {
            output::tell_in_time(format!("{before}{sign_in}{after}")).await;
            return Ok(());
        };
        let keys = made.iter().map(|made| (made.kind.name(), made.token.expose()));
        let keys: String = keys.map(|(kind, token)| format!("  {kind:<6} {token}\n")).collect();
        let kept = match self.show_first(before, &format!("{keys}{sign_in}"), after).await {
            Ok(()) => edit.keep().context("keep the keys that were shown; they open nothing"),
            Err(error) => {
                edit.undo();
                tracing::warn!(
                    reason = format!("{error:#}"),
                    "the new keys could not be shown and were withdrawn: start once in a \
                     terminal, use `nilometer keys create`, or set NILOMETER_WRITE_KEY, \
                     NILOMETER_READ_TOKEN and NILOMETER_ADMIN_TOKEN"
                );
                Ok(())
            }
        };
        self.in_force.put(&edit);
        kept
    }

    /// On a terminal, else in a file: what is printed elsewhere may be kept as a log, which others
    /// read.
    async fn show_first(&self, before: &str, keys: &str, after: &str) -> Result<()> {
        if output::is_terminal() {
            let told = "These are shown once; `nilometer keys` makes more.";
            let shown = output::show_in_time(format!("{before}\n{told}\n{keys}{after}")).await;
            if shown.is_ok() {
                return Ok(());
            }
        }
        let told = "The keys of this first start. Take them, then delete this file.";
        let file = self.keyring.keep_first_keys(&format!("{told}\n\n{keys}"))?;
        let file = file.display();
        tracing::warn!(%file, "the keys of this first start are here: take them, then delete it");
        let told = "The keys of this first start, to be taken and then deleted";
        output::tell_in_time(format!("{before}\n{told}: {file}\n{after}")).await;
        Ok(())
    }

    /// Waits for SIGTERM, SIGINT, or a shard that has ended by itself.
    pub(crate) async fn until_stopped(&mut self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = self.signals.terminate.recv() => return tracing::info!("SIGTERM received"),
                _ = self.signals.interrupt.recv() => return tracing::info!("SIGINT received"),
                _ = tick.tick() => {
                    if self.rooms.hooks.shards().iter().any(|shard| !shard.alive) {
                        return tracing::error!("a shard has stopped; the server stops, too");
                    }
                    // Else keys would stay in force, or nobody be served, without a word.
                    if self.watching.is_finished() || self.serving.is_finished() {
                        return tracing::error!("a task has ended; the server stops, too");
                    }
                }
            }
        }
    }

    /// Front door first: nothing accepted is lost, everything accepted is checkpointed.
    ///
    /// # Errors
    ///
    /// When a shard did not checkpoint in time; its journal is replayed at the next start.
    pub(crate) async fn stop(self) -> Result<()> {
        let deadline =
            Instant::now() + Duration::from_secs(self.settings.server.shutdown_timeout_s.into());
        notify(&[sd_notify::NotifyState::Stopping]);
        self.rooms.hooks.drain();
        drop(self.folding.stop);
        self.stop_door.cancel();
        self.stop_reading.cancel();
        let patience = Duration::from_secs(u64::from(self.settings.server.shutdown_timeout_s) / 3);
        if tokio::time::timeout(patience, self.rooms.query.drained()).await.is_err() {
            tracing::warn!("subscriptions were cut off");
        }
        // What is accepted is checkpointed, however these ended.
        let served = self.serving.await.context("close the door");
        let watched = self.watching.await.context("stop watching the keys");
        let Rooms { hooks, log, clock, .. } = self.rooms;
        let sent_today = self.sent_today;
        let Folding { ended, thread, .. } = self.folding;
        let unfinished = tokio::task::spawn_blocking(move || {
            let report = hooks.take_stream().map(nilometer_stream::Stream::shutdown);
            end_fold(&ended, thread, deadline.saturating_duration_since(Instant::now()));
            log.close();
            sent_today.keep(clock.now().ms());
            report.map(|report| report.unfinished).unwrap_or_default()
        })
        .await
        .context("stop the rooms")?;
        ensure!(
            unfinished.is_empty(),
            "shards {unfinished:?} did not checkpoint in time; the next start replays their journal"
        );
        served?;
        watched?;
        tracing::info!("server stopped");
        Ok(())
    }
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }
}

impl Folding {
    fn start(rooms: &Rooms, settings: &Settings) -> Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (ending, ended) = mpsc::channel();
        let (store, clock) = (Arc::clone(&rooms.store), Arc::clone(&rooms.clock));
        let pace = Pace {
            interval: Duration::from_secs(u64::from(settings.rollups.fold_interval_s)),
            layers_many: LAYERS_MANY * usize::from(settings.log.partitions),
        };
        let thread = std::thread::Builder::new()
            .name("rollups-fold".to_owned())
            .spawn(move || {
                step_back();
                let limits = FoldLimits::default();
                nilometer_rollups::run(&store, clock.as_ref(), limits, pace, &stopped);
                drop(ending);
            })
            .context("start the folding thread")?;
        Ok(Self { stop, ended, thread })
    }
}

/// A fold of a large import takes minutes: one that does not end in time is left behind, as by a
/// crash. It has switched nothing, and the next start sweeps its files.
fn end_fold(ended: &mpsc::Receiver<()>, thread: JoinHandle<()>, patience: Duration) {
    if ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
        return tracing::warn!("a fold under way was left; it begins anew at the next start");
    }
    if thread.join().is_err() {
        tracing::error!("the folding thread panicked");
    }
}

/// For this process and this user alone.
fn hold(data_dir: &Path) -> Result<DataDirLock> {
    let lock = DataDirLock::acquire(data_dir)?;
    close_to_others(data_dir);
    Ok(lock)
}

/// What others made, or an older release, may be open to other users.
fn close_to_others(data_dir: &Path) {
    let Ok(metadata) = data_dir.metadata() else { return };
    let (dir, mode) = (data_dir.display(), metadata.permissions().mode() & 0o7777);
    if mode & 0o077 == 0 {
        return;
    }
    match std::fs::set_permissions(data_dir, Permissions::from_mode(mode & 0o7700)) {
        Ok(()) => tracing::warn!(%dir, "was open to other users, and is closed to them now"),
        Err(error) => tracing::warn!(%dir, %error, "is open to other users: chmod 700"),
    }
}

fn listener_plan(settings: &Settings, connections_max: u32, exchanges: Buffers) -> ListenerPlan {
    ListenerPlan {
        connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
        http2_max: Shares::of(settings).http2,
        header_timeout: Duration::from_millis(settings.gateway.header_timeout_ms),
        body_timeout: Duration::from_millis(settings.gateway.body_timeout_ms),
        behind_proxy: settings.server.behind_proxy,
        exchanges,
    }
}

/// What each client may do; no address has more than half of the connections that all have.
fn quotas(settings: &Settings, connections_max: u32) -> Result<Arc<nilometer_access::Quotas>> {
    let mut limits = wiring::quota_settings(settings)?;
    limits.connections_max = limits.connections_max.min(connections_max.div_ceil(2));
    Ok(Arc::new(nilometer_access::Quotas::new(&limits)))
}

/// Connections of all addresses: what descriptors and memory allow.
fn connections_max(settings: &Settings) -> u32 {
    let descriptors = descriptors::raise();
    let allowed = descriptors::for_connections(descriptors, settings.log.partitions);
    let max = listener::CONNECTIONS_MAX.min(allowed).min(Shares::of(settings).connections);
    tracing::debug!(max, descriptors, "connections of all addresses");
    u32::try_from(max.max(2)).unwrap_or(u32::MAX)
}

/// What the rooms answer.
fn routes(rooms: &Rooms) -> Router {
    let pages = nilometer_dashboard::router()
        .method_not_allowed_fallback(answers::method_not_allowed)
        .layer(axum::middleware::map_response(accounted));
    nilometer_gateway::router(Arc::clone(&rooms.gateway))
        .merge(nilometer_query::router(rooms.query.clone()))
        .merge(pages)
        .fallback(answers::not_found)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&rooms.gateway), answers::tidy))
}

/// What stands before the rooms, and before they are open.
fn front_door(settings: &Settings, app: &Arc<OnceLock<Router>>, exchanges: Buffers) -> Router {
    let origins = settings.server.allowed_origins.clone();
    let door = front::before(behind_the_curtain(Arc::clone(app)), origins, exchanges);
    #[cfg(feature = "failpoints")]
    let door = crate::openapi::watched(door);
    door
}

/// Until the rooms are open every path answers 503, but for liveness.
fn behind_the_curtain(app: Arc<OnceLock<Router>>) -> Router {
    let closed = nilometer_gateway::closed_router(starting).fallback(not_yet);
    Router::new().fallback(move |request: Request<Body>| {
        answer(app.get().unwrap_or(&closed).clone(), request)
    })
}

/// A page's bytes are the program's own.
async fn accounted(mut response: Response<Body>) -> Response<Body> {
    response.extensions_mut().insert(Accounted);
    response
}

async fn not_yet(method: Method, uri: Uri) -> Response<Body> {
    if uri.path() == "/healthz" {
        // As it is answered later, too.
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        return (json, r#"{"status":"ok"}"#).into_response();
    }
    // Who may read is the front's to say: it answers what no room has an answer for.
    if method == Method::OPTIONS {
        return Problem::method_not_allowed(starting().detail).into_response();
    }
    starting().into_response()
}

fn starting() -> Problem {
    let detail = "the server is recovering; try again in a moment";
    Problem::new(Status::Unavailable, "starting", "Starting", detail).after(Duration::from_secs(1))
}

async fn answer(app: Router, request: Request<Body>) -> Response<Body> {
    match app.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// The book of keys, held; others may have to be waited for.
async fn edit(keyring: &Arc<Keyring>) -> Result<Edit> {
    let keyring = Arc::clone(keyring);
    tokio::task::spawn_blocking(move || keyring.edit()).await.context("open the book of keys")?
}

/// Makes what a first start needs, and puts it in force; nobody changes the book until it is kept.
async fn make_first(
    keyring: &Arc<Keyring>,
    in_force: &InForce,
    secrets: &Secrets,
    now_ms: i64,
) -> Result<Option<FirstKeys>> {
    if !keyring::is_first(&keyring.book()?) {
        if let Some(file) = keyring.first_keys() {
            let file = file.display();
            tracing::warn!(%file, "the keys of the first start lie here in clear: delete it");
        }
        return Ok(None);
    }
    let mut edit = edit(keyring).await?;
    let made = keyring::make_first(&mut edit.book, secrets, now_ms)?;
    in_force.put(&edit);
    Ok((!made.is_empty()).then_some(FirstKeys { edit, made }))
}

/// Puts a changed book of keys in force: `nilometer keys` works beside a running server.
async fn watch_book(in_force: Arc<InForce>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(BOOK_INTERVAL);
    let mut told = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let in_force = Arc::clone(&in_force);
        let refreshed = tokio::task::spawn_blocking(move || in_force.refresh());
        let refreshed = refreshed.await.context("read the book of keys").flatten();
        let said = refreshed.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
        if let Ok(true) = refreshed {
            tracing::info!("keys read again");
        } else if !said.is_empty() && said != told {
            tracing::error!("keys stay as they were: {said}");
        }
        told = said;
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests;
