//! `retune resume`

use std::process::ExitCode;

use retune::train::{FitOptions, resume};

use super::fit::{conclude, options};
use crate::arguments::Resume;
use crate::console::{Console, Failure};

/// Runs the command.
pub fn run(arguments: &Resume) -> Result<ExitCode, Failure> {
    let options: FitOptions<'_> = options()?;
    let mut console = Console::new();
    let summary = resume(&arguments.run, &options, vec![&mut console])?;
    drop(console);
    conclude(&summary, arguments.json)
}
