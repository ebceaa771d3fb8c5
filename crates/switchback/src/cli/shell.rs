//! `switchback completions` and `switchback man`: what a shell and a manual reader need, made from the commands themselves.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// The directory the pages are written to, one for each command; it is made if need be
    directory: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs, mut program: Command) -> ExitCode {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    print!("{}", String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}

pub(crate) fn man(args: &ManArgs, mut program: Command) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.directory)
        .with_context(|| format!("making {}", args.directory.display()))?;
    program.build();
    let pages = write_pages(&program, program.get_name(), &args.directory)?;
    println!("{pages} pages are in {}; read them with `man -l`", args.directory.display());
    Ok(ExitCode::SUCCESS)
}

fn write_pages(command: &Command, name: &str, directory: &Path) -> anyhow::Result<usize> {
    let path = directory.join(format!("{name}.1"));
    let mut page = Vec::new();
    // A built command calls itself `switchback-plan-failover`, which becomes the page's title.
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(&path, page).with_context(|| format!("writing {}", path.display()))?;
    let mut pages = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        pages += write_pages(below, &format!("{name}-{}", below.get_name()), directory)?;
    }
    Ok(pages)
}
