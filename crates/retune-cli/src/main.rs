//! The binary `retune`: parse, call, print.
#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod console;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Fit(fit) => commands::fit::run(&fit),
        Command::Bench(bench) => commands::bench::run(&bench),
        Command::Eval(eval) => commands::eval::run(&eval),
        Command::Predict(predict) => commands::predict::run(&predict),
        Command::Resume(resume) => commands::resume::run(&resume),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            console::print_error(&failure);
            ExitCode::from(failure.code)
        }
    }
}
