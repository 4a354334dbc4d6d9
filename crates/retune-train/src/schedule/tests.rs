use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    schedules: Vec<Case>,
    plateaus: Vec<PlateauCase>,
}

#[derive(Deserialize)]
struct Case {
    section: ScheduleSection,
    total_steps: u64,
    factors: Vec<f64>,
}

#[derive(Deserialize)]
struct PlateauCase {
    section: ScheduleSection,
    greater_is_better: bool,
    metrics: Vec<f64>,
    factors: Vec<f64>,
}

/// Made by `fixtures/schedules/make_schedules_golden.py`.
fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../../fixtures/schedules/schedules_golden.json")).unwrap()
}

fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-12 * theirs.abs().max(1e-3)
}

fn section(name: ScheduleName) -> ScheduleSection {
    ScheduleSection { name, gamma: Some(0.9), step_size: Some(3), ..ScheduleSection::default() }
}

const ALL: [ScheduleName; 10] = [
    ScheduleName::Constant,
    ScheduleName::Linear,
    ScheduleName::Cosine,
    ScheduleName::CosineWithRestarts,
    ScheduleName::Polynomial,
    ScheduleName::Exponential,
    ScheduleName::Step,
    ScheduleName::OneCycle,
    ScheduleName::SlantedTriangular,
    ScheduleName::ReduceOnPlateau,
];

#[test]
fn every_schedule_equals_its_reference_at_every_step() {
    for case in golden().schedules {
        let schedule = Schedule::new(&case.section, case.total_steps);
        for (step, &theirs) in (0..).zip(&case.factors) {
            let ours = schedule.factor(step);
            assert!(close(ours, theirs), "{:?} step {step}: {ours} is not {theirs}", case.section);
        }
    }
}

#[test]
fn reduce_on_plateau_equals_its_reference_and_survives_being_saved() {
    for case in golden().plateaus {
        let mut plateau = ReducePlateau::for_section(&case.section).unwrap();
        for (index, (&metric, &theirs)) in case.metrics.iter().zip(&case.factors).enumerate() {
            plateau.observe(metric, case.greater_is_better);
            assert!(
                close(plateau.factor(), theirs),
                "evaluation {index}: {} is not {theirs}",
                plateau.factor()
            );
            plateau = serde_json::from_str(&serde_json::to_string(&plateau).unwrap()).unwrap();
        }
    }
}

#[test]
fn every_schedule_stays_between_0_and_1_at_every_length_and_beyond_its_end() {
    for name in ALL {
        for total in [0, 1, 2, 3, 7, 100] {
            for warmup_ratio in [0.0, 0.1, 1.0] {
                let schedule = Schedule::new(&ScheduleSection { warmup_ratio, ..section(name) }, total);
                for step in 0..total + 5 {
                    let factor = schedule.factor(step);
                    assert!((0.0..=1.0).contains(&factor), "{name:?} {step} of {total}: {factor}");
                }
                assert_eq!(schedule.factor(total + 5), schedule.factor(total + 6), "{name:?}");
            }
        }
    }
}

#[test]
fn warm_up_rises_in_a_line_from_0_to_where_the_schedule_starts() {
    for name in ALL {
        let plain = Schedule::new(&section(name), 90);
        let warmed = Schedule::new(&ScheduleSection { warmup_steps: Some(10), ..section(name) }, 100);
        for step in 0..10 {
            assert!(close(warmed.factor(step), plain.factor(0) * step as f64 / 10.0), "{name:?}");
        }
        for step in 0..90 {
            assert_eq!(warmed.factor(10 + step), plain.factor(step), "{name:?}");
        }
    }
}

#[test]
fn warm_up_steps_go_before_the_ratio() {
    let section =
        ScheduleSection { warmup_ratio: 0.5, warmup_steps: Some(2), ..section(ScheduleName::Constant) };
    let factors: Vec<f64> = (0..4).map(|step| Schedule::new(&section, 10).factor(step)).collect();
    assert_eq!(factors, [0.0, 0.5, 1.0, 1.0]);
}

#[test]
fn a_metric_that_is_not_a_number_is_no_improvement() {
    let section = ScheduleSection { patience: Some(0), ..section(ScheduleName::ReduceOnPlateau) };
    let mut plateau = ReducePlateau::for_section(&section).unwrap();
    plateau.observe(f64::NAN, true);
    assert_eq!(plateau.factor(), 0.1);
    assert_eq!(ReducePlateau::for_section(&ScheduleSection::default()), None);
}
