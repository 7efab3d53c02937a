//! The programs that a comparison starts: where they are, and on which core they run. Look here when one is
//! not found.

use std::path::{Path, PathBuf};
use std::process::Command;

use headwater_bench::Error;
use headwater_bench::generator::WorkerCommand;

use crate::CommandLine;

/// Where nginx keeps nchan, on Debian and elsewhere.
const NCHAN_FILES: [&str; 3] = [
    "/usr/lib/nginx/modules/ngx_nchan_module.so",
    "/usr/lib64/nginx/modules/ngx_nchan_module.so",
    "/usr/local/lib/nginx/modules/ngx_nchan_module.so",
];

/// What was found.
pub(crate) struct Programs {
    /// The folder of this program, where cargo puts the others too.
    folder: PathBuf,
    /// The folder with the contenders' own files.
    pub(crate) contenders: PathBuf,
    /// The interpreter with the packages of the FastAPI contender.
    pub(crate) python: Option<PathBuf>,
    /// Whether contenders run on core 0, and everything else on core 1.
    pub(crate) is_pinned: bool,
    pub(crate) worker: WorkerCommand,
}

impl Programs {
    /// Looks around, and moves this process to the generator's core.
    pub(crate) fn find(command_line: &CommandLine) -> Result<Self, Error> {
        let worker = WorkerCommand::this_program(&["--worker"])?;
        let folder = worker.program.parent().map(Path::to_path_buf).unwrap_or_default();
        let own = std::process::id().to_string();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // What is started from here on inherits it.
        let is_pinned = cores >= 2
            && Command::new("taskset")
                .args(["--all-tasks", "--cpu-list", "--pid", "1", &own])
                .output()
                .is_ok_and(|output| output.status.success());
        Ok(Self {
            folder,
            contenders: command_line.folder.clone(),
            // It is started in another folder. Links stay, since they tell Python which environment it is in.
            python: command_line.python.as_deref().map(std::path::absolute).transpose().map_err(
                |error| Error::failed(format!("cannot find the interpreter of FastAPI: {error}")),
            )?,
            is_pinned,
            worker,
        })
    }

    /// A command for a contender, on its core.
    pub(crate) fn contender(&self, program: &Path) -> Command {
        if !self.is_pinned {
            return Command::new(program);
        }
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", "0"]).arg(program);
        command
    }

    /// One of our own programs.
    pub(crate) fn own(&self, name: &str) -> Result<PathBuf, Error> {
        let file = self.folder.join(name);
        if file.exists() {
            return Ok(file);
        }
        let why = format!("{name} is not built: run the comparison with `cargo xtask compare`");
        Err(Error::Failed(why))
    }

    /// The line of nginx' configuration that loads nchan; empty where it is built in.
    pub(crate) fn nchan_line() -> String {
        let file = NCHAN_FILES.iter().find(|file| Path::new(file).exists());
        file.map_or_else(String::new, |file| format!("load_module {file};"))
    }
}

/// What a program says of its version, in one line.
pub(crate) fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().map(|line| line.trim().to_owned())
}
