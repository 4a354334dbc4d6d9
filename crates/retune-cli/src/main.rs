//! The binary `retune`: parse, call, print.
#![deny(unsafe_code)]

mod arguments;
mod commands;
mod console;
mod format;
mod inputs;
mod recipe_source;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// SAFETY: the allocator's own function, by its own signature; any thread may call it at any time.
#[expect(unsafe_code, reason = "the crate of the allocator has no name for it")]
unsafe extern "C" {
    /// Gives memory that is free back to the system, at once if forced.
    safe fn mi_collect(force: bool);
}

fn main() -> ExitCode {
    retune::tensor::set_memory_release(|| mi_collect(true));
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Bench(bench) => commands::bench::run(&bench),
        Command::Cache(cache) => commands::cache::run(&cache),
        Command::CompareStrategies(compare) => commands::compare_strategies::run(&compare),
        Command::Completions { shell } => {
            arguments::print_completions(shell);
            Ok(ExitCode::SUCCESS)
        }
        Command::Convert(convert) => commands::convert::run(&convert),
        Command::Data(data) => commands::data::run(&data),
        Command::Embed(embed) => commands::embed::run(&embed),
        Command::Eval(eval) => commands::eval::run(&eval),
        Command::Fit(fit) => commands::fit::run(&fit),
        Command::Inspect(inspect) => commands::inspect::run(&inspect),
        Command::LrFind(find) => commands::lr_find::run(&find),
        Command::Plan(plan) => commands::plan::run(&plan),
        Command::Predict(predict) => commands::predict::run(&predict),
        Command::Resume(resume) => commands::resume::run(&resume),
        Command::VerifyResume(verify) => commands::verify_resume::run(&verify),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            console::print_error(&failure);
            ExitCode::from(failure.code)
        }
    }
}
