//! The programs of a comparison: where they are, and on which core they run. Look here when one is
//! not found.

use std::path::{Path, PathBuf};
use std::process::Command;

use headwater_bench::Error;
use headwater_bench::generator::WorkerCommand;

/// The paths of the nchan module, on Debian and elsewhere.
const NCHAN_FILES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/local/lib/nginx/modules/ngx_nchan_module.so",
];

/// The programs, and how they are started.
pub(crate) struct Programs {
    /// The directory of this program, where cargo puts the others too.
    folder: PathBuf,
    /// The directory with the contenders' files.
    pub(crate) contenders: PathBuf,
    /// The Python interpreter with the packages of the FastAPI contender.
    pub(crate) python: Option<PathBuf>,
    /// Whether contenders run on core 0, and everything else on core 1.
    pub(crate) is_pinned: bool,
    pub(crate) worker: WorkerCommand,
}

impl Programs {
    /// Finds the programs, and moves this process to the generator's core.
    pub(crate) fn find(contenders: &Path, python: Option<&Path>) -> Result<Self, Error> {
        let program = std::env::current_exe()
            .map_err(|error| Error::failed(format!("cannot find the running program: {error}")))?;
        let folder = program.parent().map(Path::to_path_buf).unwrap_or_default();
        // Absolute, since it is started in another directory. Links are not resolved: their place
        // is how Python finds its environment.
        let python = python.map(std::path::absolute).transpose().map_err(|error| {
            Error::failed(format!("cannot find the Python interpreter: {error}"))
        })?;
        let worker = own_program(&folder, "headwater-bench-worker")?;
        Ok(Self {
            folder,
            contenders: contenders.to_path_buf(),
            python,
            is_pinned: pin_this_process(),
            worker: WorkerCommand { program: worker, arguments: Vec::new() },
        })
    }

    /// A command for a contender, on the server's core.
    pub(crate) fn contender(&self, program: &Path) -> Command {
        if !self.is_pinned {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0"]).arg(program);
        command
    }

    /// The path of a program of this workspace.
    pub(crate) fn own(&self, name: &str) -> Result<PathBuf, Error> {
        own_program(&self.folder, name)
    }

    /// The line of nginx's configuration that loads nchan; empty where it is compiled in.
    pub(crate) fn nchan_line() -> String {
        let file = NCHAN_FILES.iter().find(|file| Path::new(file).exists());
        file.map_or_else(String::new, |file| format!("load_module {file};"))
    }
}

fn own_program(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let file = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if file.exists() {
        return Ok(file);
    }
    Err(Error::failed(format!("{name} is not built: use `cargo xtask compare`")))
}

/// Moves this process, and so the processes that it starts, to core 1. `false` if there is only one
/// core, or no `taskset`.
fn pin_this_process() -> bool {
    let own = std::process::id().to_string();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores >= 2
        && Command::new("taskset")
            .args(["--all-tasks", "--cpu-list", "--pid", "1", &own])
            .output()
            .is_ok_and(|output| output.status.success())
}

/// The first line of what a program prints about its version.
pub(crate) fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().map(|line| line.trim().to_owned())
}
