//! The contenders: how each is started, where its streams are, and which processes are measured.
//! Look here for their settings; `bench/contenders/README.md` has the reasons.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use headwater_bench::Error;
use headwater_bench::server::Server;
use headwater_bench::target::HttpTarget;

use crate::programs::Programs;
use crate::redis::Redis;
use crate::startup::{free_address, wait_for};

/// A server that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Contender {
    Floor,
    Headwater,
    Nchan,
    Axum,
    Fastapi,
}

/// The load that a contender is set up for.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) streams: usize,
    pub(crate) channels: usize,
    pub(crate) redis: Option<&'a Redis>,
}

/// A running contender; stopped when dropped.
pub(crate) struct Running {
    pub(crate) target: HttpTarget,
    /// All processes of the contender.
    pub(crate) pids: Vec<u32>,
    /// Kept alive: dropping them kills the processes.
    _servers: Vec<Server>,
    /// The process of another contender, to be stopped here.
    process: Option<Child>,
    directory: Option<PathBuf>,
}

impl Contender {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Headwater => "headwater",
            Self::Nchan => "nchan",
            Self::Axum => "axum",
            Self::Fastapi => "fastapi",
        }
    }

    /// Starts the contender, and waits until it accepts connections.
    pub(crate) fn start(self, programs: &Programs, setting: &Setting) -> Result<Running, Error> {
        match self {
            Self::Floor => floor(programs, setting),
            Self::Headwater => headwater(programs, setting, 1),
            Self::Nchan => nchan(programs, setting),
            Self::Axum => axum(programs, setting),
            Self::Fastapi => fastapi(programs, setting),
        }
    }
}

/// Starts several processes of headwater, each with its own address and the setting's streams.
pub(crate) fn headwater(
    programs: &Programs,
    setting: &Setting,
    nodes: usize,
) -> Result<Running, Error> {
    let program = programs.own("headwater")?;
    let redis = setting.redis.map(Redis::url);
    let start = |_| {
        let command = programs.contender(&program);
        Server::start_with(command, setting.streams, redis.as_deref())
    };
    let servers = (0..nodes).map(start).collect::<Result<Vec<_>, _>>()?;
    Ok(Running {
        target: HttpTarget::headwater(servers.iter().map(Server::address).collect()),
        pids: servers.iter().map(Server::pid).collect(),
        _servers: servers,
        process: None,
        directory: None,
    })
}

fn floor(programs: &Programs, setting: &Setting) -> Result<Running, Error> {
    let address = free_address()?;
    let mut command = programs.contender(&programs.own("headwater-floor")?);
    command.arg(address.to_string());
    if let Some(redis) = setting.redis {
        command.args(["--redis", &redis.address.to_string()]);
    }
    Running::start(&mut command, address, None)
}

fn axum(programs: &Programs, setting: &Setting) -> Result<Running, Error> {
    let address = free_address()?;
    // The ring of a channel is allocated at once, so it is small where channels are many.
    let backlog = if setting.channels == 1 { "16384" } else { "16" };
    let mut command = programs.contender(&programs.own("headwater-contender-axum")?);
    command.args([&address.to_string(), backlog]);
    Running::start(&mut command, address, None)
}

/// Connections of nginx besides the streams: publisher, listening socket, channels between
/// processes.
const NGINX_CONNECTIONS_EXTRA: usize = 128;

/// The `worker_connections` for some streams. When fewer than a sixteenth are free, nginx closes
/// connections that have not sent a request yet.
fn nginx_connections(streams: usize) -> usize {
    (streams + NGINX_CONNECTIONS_EXTRA) * 16 / 15 + 1
}

fn nchan(programs: &Programs, setting: &Setting) -> Result<Running, Error> {
    let address = free_address()?;
    let directory = std::env::temp_dir().join(format!("headwater-compare-{}", std::process::id()));
    let template = programs.contenders.join("nchan/nginx.conf");
    let failed = |error: std::io::Error| Error::failed(format!("cannot set up nginx: {error}"));
    let configuration = fs::read_to_string(template)
        .map_err(failed)?
        .replace("{load_module}", &Programs::nchan_line())
        .replace("{directory}", &directory.to_string_lossy())
        .replace("{connections}", &nginx_connections(setting.streams).to_string())
        .replace("{port}", &address.port().to_string());
    fs::create_dir_all(&directory).map_err(failed)?;
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration).map_err(failed)?;
    let mut command = programs.contender(&nginx());
    command.arg("-c").arg(file).arg("-p").arg(&directory).args(["-e", "stderr"]);
    let mut running = Running::start(&mut command, address, Some(directory))?;
    let master = running.pids[0];
    wait_for("nginx starts its worker", || !children(master).is_empty())?;
    running.pids.extend(children(master));
    Ok(running)
}

/// Debian's path first: a normal user does not have /usr/sbin in the PATH.
fn nginx() -> PathBuf {
    let system = PathBuf::from("/usr/sbin/nginx");
    if system.exists() { system } else { PathBuf::from("nginx") }
}

fn fastapi(programs: &Programs, setting: &Setting) -> Result<Running, Error> {
    let python = programs.python.as_ref().ok_or_else(|| {
        Error::failed(
            "no Python interpreter with FastAPI: use `cargo xtask compare`, which installs it",
        )
    })?;
    let redis = setting.redis.ok_or_else(|| Error::failed("the FastAPI pattern needs Redis"))?;
    let address = free_address()?;
    let mut command = programs.contender(python);
    command
        .args(["-m", "uvicorn", "app:app", "--no-access-log", "--log-level", "critical"])
        .args(["--backlog", "4096", "--host", "127.0.0.1", "--port", &address.port().to_string()])
        .current_dir(programs.contenders.join("fastapi"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("REDIS_URL", redis.url());
    Running::start(&mut command, address, None)
}

impl Running {
    fn start(
        command: &mut Command,
        address: SocketAddr,
        directory: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| Error::failed(format!("cannot start a contender: {error}")))?;
        let mut ended = false;
        let ready = wait_for("a contender accepts connections", || {
            ended = !matches!(process.try_wait(), Ok(None));
            ended || TcpStream::connect(address).is_ok()
        });
        let running = Self {
            target: HttpTarget::headwater(vec![address]),
            pids: vec![process.id()],
            _servers: Vec::new(),
            process: Some(process),
            directory,
        };
        ready?;
        if ended {
            return Err(Error::failed("a contender exited at once, see its output above"));
        }
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            stop(process);
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// Terminates a process, and kills it if it does not exit: the worker of nginx would outlive a
/// killed master.
fn stop(child: &mut Child) {
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let ended = wait_for("a contender exits", || !matches!(child.try_wait(), Ok(None)));
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The child processes of a process, from Linux's `/proc`; none on other systems.
fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_ascii_whitespace().nth(1) == Some(&parent.to_string())
    };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}
