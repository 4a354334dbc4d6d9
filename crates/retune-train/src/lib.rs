//! The transfer engine: recipe, plan, stages, schedules, the loop, checkpoint and resume, the artifact.
//!
//! [`fit`] takes a recipe to a run folder; [`resume`] goes on from one; [`Predictor`] answers with a model. What happens
//! is told to [`Listener`]s. Knows no terminal and no HTML; what is about one modality is behind [`Trainee`].
#![forbid(unsafe_code)]

mod artifact;
mod bench;
mod clean_file;
mod compare;
mod confirm;
mod copies;
mod data_check;
mod data_overview;
mod dedupe;
mod dynamics;
mod error;
mod evaluate;
mod event;
mod explain;
mod features;
mod fit;
mod forecast;
mod image;
mod image_artifact;
mod image_predict;
mod learning_rate;
mod memory;
mod modal_predict;
mod modality;
mod plan;
mod predict;
mod prepare;
mod probe;
mod rates;
pub mod recipe;
mod review;
mod run_folder;
mod schedule;
mod split_file;
mod stages;
mod state;
mod text;
mod trainee;
mod trainer;
mod transferability;

pub use artifact::Certificate;
pub use bench::{BenchInput, BenchOptions, BenchResult, bench, gemm_rate};
pub use clean_file::{CleanFile, CleanedFile, clean_file};
pub use compare::{
    Budget, Choice, CompareOptions, CutScore, ModelScore, StrategyComparison, StrategyResult,
    compare_strategies,
};
pub use confirm::{Confirmation, confirm_plan};
pub use data_check::{
    ClassCount, DataExamination, FileSummary, MissingCells, RoleSummary, examine_file, examine_recipe,
};
pub use data_overview::{FileOverview, OverviewOptions, overview_file, overview_recipe};
pub use dedupe::{Cluster, ClusterRow, Copy, Deduped, DedupedFile, dedupe_file, dedupe_recipe};
pub use dynamics::{Dynamics, SampleDynamics};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate_logits};
pub use event::{Event, Listener, RunStarted};
pub use features::{About, FeatureLimits, FeatureSet, clean_cache, feature_bytes, list_features};
pub use fit::{FitOptions, RunSummary, fit, resume};
pub use forecast::{Forecast, ForecastComparison, StageForecast, input_seconds};
pub use image::{ImageTrainee, ImageViews, TrainingSize, ViewChoice};
pub use image_predict::ImagePredictor;
pub use learning_rate::{
    GroupProbe, LearningRateOptions, LearningRateSearch, RateOutcome, RateProbe, find_learning_rate,
};
pub use memory::available_bytes;
pub use modal_predict::{ModalPredictor, ReadData};
pub use modality::{ModalTrainee, SplitSummary};
pub use plan::{
    FeaturePlan, GroupActivations, RunPlan, StageMemory, StagePlan, StepCost, disk_bytes, measure_evaluation,
    measure_step, plan_run, stage_memory, stage_steps, steps_per_epoch,
};
pub use predict::{PredictOptions, Predictor};
pub use prepare::{PrepareOptions, Prepared, expand_folders, prepare, preprocessor_of, read_options};
pub use rates::MachineRates;
pub use recipe::Recipe;
pub use review::{Judged, Review, review};
pub use run_folder::RunFolder;
pub use schedule::{ReducePlateau, Schedule};
pub use split_file::{SplitBy, SplitFile, SplitPart, split_file, write_split};
pub use stages::{Stage, plan_stages};
pub use state::StageTiming;
pub use text::{TextSplit, TextTrainee, TextViews};
pub use trainee::{Cut, Fetch, SampleBatch, SampleHash, Split, Trainee};
pub use trainer::{LossFunction, Outcome, StopFlag, Trainer};
