//! Fine-tune pretrained models on your own data.
//!
//! ```no_run
//! use retune::train::{Event, FitOptions, PrepareOptions, Recipe, StopFlag, fit};
//!
//! let recipe = Recipe::load("recipe.toml".as_ref(), &["train.num_train_epochs=2".to_owned()])?;
//! let resolve = retune::checkpoint::hub::ResolveOptions::from_environment(|name| std::env::var(name).ok());
//! let options = FitOptions { prepare: PrepareOptions::new(resolve), stop: StopFlag::default(), loss: None };
//! let mut on_event = |event: &Event| {
//!     if let Event::EvalEnded { metrics, .. } = event {
//!         eprintln!("{metrics:?}");
//!     }
//! };
//! let run = fit(&recipe, &options, vec![&mut on_event])?;
//! assert!(run.folder.join("model.safetensors").is_file());
//! # Ok::<(), retune::train::TrainError>(())
//! ```
#![forbid(unsafe_code)]

pub use retune_autograd as autograd;
pub use retune_checkpoint as checkpoint;
pub use retune_data as data;
pub use retune_kernels as kernels;
pub use retune_models as models;
pub use retune_nn as nn;
pub use retune_tasks as tasks;
pub use retune_tensor as tensor;
pub use retune_train as train;
