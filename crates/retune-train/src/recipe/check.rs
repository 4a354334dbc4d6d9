//! What a recipe's values must be to each other. Types and ranges are the table's; see [`super::keys`].

use retune_data::image::{Crop, Policy};
use retune_nn::OptimizerKind;
use toml::Value;

use super::parse::check_table;
use super::{
    AugmentationSection, ClassWeights, Method, NearCopies, OverLength, Recipe, RecipeError, ScheduleName,
    ScheduleSection, StageTarget, ThresholdTuning, TrainSection,
};

type Checked = Result<(), RecipeError>;

impl Recipe {
    /// Checks every value alone and beside the others. [`Recipe::parse`] has done it; a recipe made in code may need it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Checked {
        let table =
            Value::try_from(self).map_err(|error| RecipeError::Unwritable { reason: error.to_string() })?;
        if let Value::Table(table) = &table {
            check_table(table, &self.places)?;
        }
        if self.model.name_or_path.trim().is_empty() {
            let problem =
                "missing; name a folder with a checkpoint or a hub id, such as \"bert-base-uncased\"";
            return Err(self.error("model.name_or_path", problem));
        }
        self.check_data()?;
        self.check_strategy()?;
        self.check_stages()?;
        self.check_optimizer()?;
        self.check_schedule("schedule", &self.schedule)?;
        self.check_batches()?;
        if self.train.output_dir.trim().is_empty() {
            return Err(self.error("train.output_dir", "is empty; name the run folder"));
        }
        Ok(())
    }

    /// Refuses a key that is set although it has no effect.
    fn only_with(&self, path: &str, is_set: bool, has_effect: bool, with: &str) -> Checked {
        if !is_set || has_effect {
            return Ok(());
        }
        Err(self.error(path, format!("has an effect with {with} only; remove it, or choose that")))
    }

    fn check_data(&self) -> Checked {
        let data = &self.data;
        if data.validation.is_some() && data.validation_split.is_some() {
            let problem = "there is a validation file too; remove one of the two";
            return Err(self.error("data.validation_split", problem));
        }
        let (by_time, splits) = (data.time_column.is_some(), data.validation_split.is_some());
        self.only_with("data.time_column", by_time, splits, "validation_split")?;
        if by_time && data.group_column.is_some() {
            return Err(self
                .error("data.time_column", "rows are held out by time or by group; remove one of the two"));
        }
        if by_time && data.near_copies == NearCopies::Together {
            let problem = "rows are held out by time, however alike they are; remove one of the two";
            return Err(self.error("data.near_copies", problem));
        }
        for (path, columns) in
            [("data.drop_missing", &data.drop_missing), ("data.refuse_missing", &data.refuse_missing)]
        {
            let others = |column: &&String| {
                data.fill_missing.contains_key(*column)
                    || (path == "data.refuse_missing" && data.drop_missing.contains(column))
            };
            if let Some(column) = columns.iter().find(others) {
                let problem =
                    format!("names `{column}`, whose empty cells another key deals with; remove one");
                return Err(self.error(path, problem));
            }
        }
        let windows = data.over_length == OverLength::Window;
        self.only_with("data.stride", data.stride.is_some(), windows, "over_length = \"window\"")?;
        if let (Some(stride), Some(max_length)) = (data.stride, data.max_length)
            && stride >= max_length
        {
            return Err(self.error("data.stride", format!("must be below max_length = {max_length}")));
        }
        if let (Some(mean), Some(std)) = (&data.image_mean, &data.image_std)
            && mean.len() != std.len()
        {
            return Err(self.error("data.image_std", "must have as many numbers as image_mean"));
        }
        let augmentation = &self.augmentation;
        let rand_augment = augmentation.policy == Policy::RandAugment;
        let default = AugmentationSection::default();
        for (key, is_set) in [
            ("augmentation.num_ops", augmentation.num_ops != default.num_ops),
            ("augmentation.magnitude", augmentation.magnitude != default.magnitude),
        ] {
            self.only_with(key, is_set, rand_augment, "policy = \"rand_augment\"")?;
        }
        let cuts = augmentation.min_scale == default.min_scale || augmentation.crop == Crop::RandomResized;
        self.only_with("augmentation.min_scale", !cuts, cuts, "crop = \"random_resized\"")?;
        let sets_probability = augmentation.paraphrase_probability != default.paraphrase_probability;
        let sources = "paraphrases or paraphrase_command";
        self.only_with(
            "augmentation.paraphrase_probability",
            sets_probability,
            augmentation.has_paraphrases(),
            sources,
        )?;
        self.check_mixing()?;
        let task = &self.task;
        let classes = task.problem_type != Some(retune_tasks::ProblemType::Regression);
        let classification = "classification";
        self.only_with("task.label_smoothing", task.label_smoothing != 0.0, classes, classification)?;
        self.only_with("task.focal_gamma", task.focal_gamma != 0.0, classes, classification)?;
        if task.focal_gamma != 0.0 && task.label_smoothing != 0.0 {
            let problem = "has no meaning beside label_smoothing; remove one of the two";
            return Err(self.error("task.focal_gamma", problem));
        }
        let tunes = task.tune_thresholds != ThresholdTuning::None;
        self.only_with("task.tune_thresholds", tunes, classes, classification)?;
        self.only_with(
            "task.class_weights",
            task.class_weights != ClassWeights::None,
            classes,
            classification,
        )
    }

    fn check_mixing(&self) -> Checked {
        let augmentation = &self.augmentation;
        let (mixes, cuts) = (augmentation.mixup_alpha > 0.0, augmentation.cutmix_alpha > 0.0);
        let default = AugmentationSection::default();
        let sets_probability = augmentation.mixup_prob != default.mixup_prob;
        self.only_with(
            "augmentation.mixup_prob",
            sets_probability,
            mixes || cuts,
            "mixup_alpha or cutmix_alpha",
        )?;
        let sets_switch = augmentation.mixup_switch_prob != default.mixup_switch_prob;
        let both = "both mixup_alpha and cutmix_alpha";
        self.only_with("augmentation.mixup_switch_prob", sets_switch, mixes && cuts, both)?;
        let batch_size = self.train.per_device_train_batch_size;
        if let (Some(path), false) = (augmentation.mixing_key(), batch_size.is_multiple_of(2)) {
            let problem = format!(
                "mixes pictures in pairs, but per_device_train_batch_size = {batch_size} is odd; make it even"
            );
            return Err(self.error(path, problem));
        }
        Ok(())
    }

    fn check_batches(&self) -> Checked {
        let train = &self.train;
        let is_auto = train.per_device_train_batch_size == TrainSection::AUTO;
        let total = train.total_train_batch_size.is_some();
        let with = "per_device_train_batch_size = \"auto\"";
        self.only_with("train.total_train_batch_size", total, is_auto, with)?;
        if is_auto && train.gradient_accumulation_steps != 1 {
            let problem = format!(
                "{with} chooses the accumulation too; remove it, and say with total_train_batch_size how many samples a \
                 step has"
            );
            return Err(self.error("train.gradient_accumulation_steps", problem));
        }
        Ok(())
    }

    fn check_strategy(&self) -> Checked {
        let strategy = &self.strategy;
        let method = |method: Method| (strategy.method == method, format!("method = \"{}\"", method.name()));
        let options = [
            ("strategy.last_n", strategy.last_n.is_some(), Method::LastN),
            ("strategy.gradual_epochs", strategy.gradual_epochs.is_some(), Method::Gradual),
            ("strategy.gradual_patience", strategy.gradual_patience.is_some(), Method::Gradual),
            ("strategy.freeze_epochs", strategy.freeze_epochs.is_some(), Method::FineTune),
            ("strategy.base_lr", strategy.base_lr.is_some(), Method::FineTune),
            ("strategy.target_modules", strategy.target_modules.is_some(), Method::Lora),
        ];
        for (path, is_set, needed) in options {
            let (has_effect, with) = method(needed);
            self.only_with(path, is_set, has_effect, &with)?;
        }
        if strategy.method == Method::LastN && strategy.last_n.is_none() {
            let problem = "method = \"last_n\" needs it: how many backbone groups train below the head, such as last_n = 2";
            return Err(self.error("strategy.last_n", problem));
        }
        if let Some(epochs) = &strategy.gradual_epochs {
            self.check_gradual_epochs(epochs)?;
        }
        Ok(())
    }

    fn check_gradual_epochs(&self, epochs: &[u32]) -> Checked {
        let path = "strategy.gradual_epochs";
        let total = self.train.num_train_epochs;
        if self.strategy.gradual_patience.is_some() {
            return Err(self.error(path, "gradual_patience says when to unfreeze too; remove one of the two"));
        }
        if self.train.max_steps.is_some() {
            return Err(self.error(path, "counts epochs, but max_steps is set; remove one of the two"));
        }
        if epochs.is_empty() || !epochs.is_sorted_by(|a, b| a < b) {
            return Err(self.error(path, "must be epochs in rising order, such as [1, 2]"));
        }
        match epochs.last() {
            Some(&last) if f64::from(last) >= total => {
                Err(self.error(path, format!("epoch {last} does not come: num_train_epochs = {total}")))
            }
            _ => Ok(()),
        }
    }

    fn check_stages(&self) -> Checked {
        let explicit = self.strategy.method == Method::Stages;
        if explicit && self.stage.is_empty() {
            let problem =
                "\"stages\" needs at least one [[stage]] table, such as [[stage]] with train = [\"head\"]";
            return Err(self.error("strategy.method", problem));
        }
        if !explicit && !self.stage.is_empty() {
            let problem = format!(
                "[[stage]] tables belong to method = \"stages\", but the method is \"{}\"",
                self.strategy.method.name()
            );
            return Err(self.error("stage.0", problem));
        }
        for (index, stage) in self.stage.iter().enumerate() {
            let path = format!("stage.{index}.train");
            if stage.train.is_empty() {
                let problem =
                    "names nothing that trains; write \"all\", \"head\", \"last:N\" or layer groups";
                return Err(self.error(&path, problem));
            }
            for target in &stage.train {
                StageTarget::parse(target).map_err(|problem| self.error(&path, problem))?;
            }
            if let Some(schedule) = &stage.schedule {
                self.check_schedule(&format!("stage.{index}.schedule"), schedule)?;
            }
        }
        Ok(())
    }

    fn check_optimizer(&self) -> Checked {
        use OptimizerKind::{Adam, AdamW, Lion, RmsProp, Sgd};
        let optimizer = &self.optimizer;
        let one_of = |kinds: &[OptimizerKind]| kinds.contains(&optimizer.name);
        let moments = (one_of(&[AdamW, Adam, Lion]), "adamw, adam and lion");
        let options = [
            ("adam_beta1", optimizer.adam_beta1.is_some(), moments),
            ("adam_beta2", optimizer.adam_beta2.is_some(), moments),
            (
                "adam_epsilon",
                optimizer.adam_epsilon.is_some(),
                (one_of(&[AdamW, Adam, RmsProp]), "adamw, adam and rmsprop"),
            ),
            ("momentum", optimizer.momentum.is_some(), (one_of(&[Sgd, RmsProp]), "sgd and rmsprop")),
            ("nesterov", optimizer.nesterov == Some(true), (one_of(&[Sgd]), "sgd")),
            ("alpha", optimizer.alpha.is_some(), (one_of(&[RmsProp]), "rmsprop")),
        ];
        for (name, is_set, (has_effect, with)) in options {
            self.only_with(&format!("optimizer.{name}"), is_set, has_effect, with)?;
        }
        if optimizer.nesterov == Some(true) && optimizer.momentum == Some(0.0) {
            return Err(self.error("optimizer.nesterov", "needs a momentum above 0"));
        }
        Ok(())
    }

    fn check_schedule(&self, path: &str, schedule: &ScheduleSection) -> Checked {
        use ScheduleName::{
            Cosine, CosineWithRestarts, Exponential, OneCycle, Polynomial, ReduceOnPlateau,
            SlantedTriangular, Step,
        };
        let one_of = |names: &[ScheduleName]| names.contains(&schedule.name);
        let waves = (one_of(&[Cosine, CosineWithRestarts]), "cosine and cosine_with_restarts");
        let polynomial = (one_of(&[Polynomial]), "polynomial");
        let triangle = (one_of(&[SlantedTriangular]), "slanted_triangular");
        let cycle = (one_of(&[OneCycle]), "one_cycle");
        let plateau = (one_of(&[ReduceOnPlateau]), "reduce_on_plateau");
        let options = [
            ("num_cycles", schedule.num_cycles.is_some(), waves),
            ("power", schedule.power.is_some(), polynomial),
            ("lr_end", schedule.lr_end.is_some(), polynomial),
            ("gamma", schedule.gamma.is_some(), (one_of(&[Exponential, Step]), "exponential and step")),
            ("step_size", schedule.step_size.is_some(), (one_of(&[Step]), "step")),
            ("cut_frac", schedule.cut_frac.is_some(), triangle),
            ("ratio", schedule.ratio.is_some(), triangle),
            ("pct_start", schedule.pct_start.is_some(), cycle),
            ("div_factor", schedule.div_factor.is_some(), cycle),
            ("final_div_factor", schedule.final_div_factor.is_some(), cycle),
            ("patience", schedule.patience.is_some(), plateau),
            ("factor", schedule.factor.is_some(), plateau),
        ];
        for (name, is_set, (has_effect, with)) in options {
            self.only_with(&format!("{path}.{name}"), is_set, has_effect, &format!("the schedule {with}"))?;
        }
        if schedule.name == Exponential && schedule.gamma.is_none() {
            let problem =
                "the schedule \"exponential\" needs it: the factor per optimizer step, such as gamma = 0.999";
            return Err(self.error(&format!("{path}.gamma"), problem));
        }
        if schedule.name == Step && schedule.step_size.is_none() {
            let problem =
                "the schedule \"step\" needs it: optimizer steps between two drops, such as step_size = 100";
            return Err(self.error(&format!("{path}.step_size"), problem));
        }
        Ok(())
    }
}
