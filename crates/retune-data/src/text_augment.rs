//! Random views of a text for training that a person would still give the same label: words left out or swapped (Wei and
//! Zou 2019, "EDA"), other casing, typing errors. No synonyms and no models, which change what a text says.
//!
//! Every draw is a function of (seed, step, occurrence) and of the operation that draws, as for pictures.

use crate::image::{Draws, ViewKey};

/// What is done to training texts. The default does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TextAugmentation {
    /// Probability of each word to be left out; a text keeps one word at least.
    pub word_dropout: f64,
    /// Probability of each word to change places with the next.
    pub word_swap: f64,
    /// Probability that a text is written in another casing: lower, upper, or with capitals at the words' beginnings.
    pub casing: f64,
    /// Probability of each letter to be mistyped: left out, doubled, or swapped with the next.
    pub typos: f64,
}

impl TextAugmentation {
    /// Whether it does nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// A random view of a text; `part` tells the texts of a pair apart.
    pub fn view(&self, text: &str, key: ViewKey, part: &str) -> String {
        let draws = |operation: &str| Draws::new(key, &format!("{part}.{operation}"));
        let mut words: Vec<&str> = text.split_whitespace().collect();
        if self.word_swap > 0.0 {
            swap(&mut words, self.word_swap, &mut draws("word_swap"));
        }
        if self.word_dropout > 0.0 {
            words = leave_out(&words, self.word_dropout, &mut draws("word_dropout"));
        }
        // What changes no word keeps the text's own spacing.
        let moves = self.word_swap > 0.0 || self.word_dropout > 0.0;
        let mut view = if moves { words.join(" ") } else { text.to_owned() };
        let mut casing = draws("casing");
        if casing.chance(self.casing) {
            view = match casing.below(3) {
                0 => view.to_lowercase(),
                1 => view.to_uppercase(),
                _ => capitalized(&view),
            };
        }
        if self.typos > 0.0 {
            view = mistyped(&view, self.typos, &mut draws("typos"));
        }
        view
    }
}

fn swap(words: &mut [&str], probability: f64, draws: &mut Draws) {
    let mut place = 0;
    while place + 1 < words.len() {
        if draws.chance(probability) {
            words.swap(place, place + 1);
            place += 1;
        }
        place += 1;
    }
}

fn leave_out<'t>(words: &[&'t str], probability: f64, draws: &mut Draws) -> Vec<&'t str> {
    let kept: Vec<&str> = words.iter().filter(|_| !draws.chance(probability)).copied().collect();
    match words.get(draws.below(words.len().max(1))) {
        Some(&only) if kept.is_empty() => vec![only],
        _ => kept,
    }
}

fn capitalized(text: &str) -> String {
    let mut begins = true;
    let mut capitalized = String::with_capacity(text.len());
    for character in text.chars() {
        if begins && character.is_alphabetic() {
            capitalized.extend(character.to_uppercase());
        } else {
            capitalized.push(character);
        }
        begins = character.is_whitespace();
    }
    capitalized
}

fn mistyped(text: &str, probability: f64, draws: &mut Draws) -> String {
    let mut typed = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if !character.is_alphabetic() || !draws.chance(probability) {
            typed.push(character);
            continue;
        }
        match (draws.below(3), characters.peek().copied().filter(|next| next.is_alphabetic())) {
            (0, Some(_)) => {}
            (1, Some(next)) => {
                characters.next();
                typed.extend([next, character]);
            }
            _ => typed.extend([character, character]),
        }
    }
    typed
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Where is my parcel?  It should have been here on Monday.";

    fn key(step: u64, occurrence: u32) -> ViewKey {
        ViewKey { seed: 7, step, occurrence }
    }

    fn views(augmentation: TextAugmentation) -> Vec<String> {
        (0..200).map(|step| augmentation.view(TEXT, key(step, 0), "text")).collect()
    }

    #[test]
    fn no_augmentation_leaves_every_character_where_it_is() {
        assert!(views(TextAugmentation::default()).iter().all(|view| view == TEXT));
    }

    #[test]
    fn a_view_depends_on_seed_step_and_occurrence_alone() {
        let augmentation = TextAugmentation { word_dropout: 0.3, typos: 0.1, ..TextAugmentation::default() };
        assert_eq!(views(augmentation), views(augmentation));
        let at = |key| augmentation.view(TEXT, key, "text");
        assert_ne!(at(key(1, 0)), at(key(2, 0)));
        assert_ne!(at(key(1, 0)), at(key(1, 1)));
        assert_ne!(at(key(1, 0)), augmentation.view(TEXT, key(1, 0), "text_pair"));
    }

    #[test]
    fn the_stated_share_of_words_is_left_out_and_one_always_stays() {
        let dropping = |word_dropout| TextAugmentation { word_dropout, ..TextAugmentation::default() };
        let words: usize = views(dropping(0.2)).iter().map(|view| view.split_whitespace().count()).sum();
        // 200 views of 11 words: 1760 stay, with a deviation of 19.
        assert!((1680..1840).contains(&words), "{words}");
        assert!(views(dropping(0.999)).iter().all(|view| view.split_whitespace().count() >= 1));
        assert_eq!(dropping(0.5).view("  ", key(0, 0), "text"), "");
    }

    #[test]
    fn swapped_words_are_all_still_there_and_at_most_one_place_away() {
        let original: Vec<&str> = TEXT.split_whitespace().collect();
        let mut moved = 0;
        for view in views(TextAugmentation { word_swap: 0.2, ..TextAugmentation::default() }) {
            let words: Vec<&str> = view.split_whitespace().collect();
            for (place, word) in original.iter().enumerate() {
                let now = words.iter().position(|other| other == word).unwrap();
                assert!(now.abs_diff(place) <= 1, "{view}");
                moved += usize::from(now != place);
            }
        }
        assert!(moved > 400, "{moved}");
    }

    #[test]
    fn casing_changes_no_letter_and_typos_change_few() {
        for view in views(TextAugmentation { casing: 0.5, ..TextAugmentation::default() }) {
            assert_eq!(view.to_lowercase(), TEXT.to_lowercase());
        }
        let typed = views(TextAugmentation { typos: 0.05, ..TextAugmentation::default() });
        let changed = typed.iter().filter(|view| *view != TEXT).count();
        // 43 letters: 0.95⁴³ = 0.11 of the views have no error.
        assert!((150..200).contains(&changed), "{changed}");
        assert!(typed.iter().all(|view| view.chars().count().abs_diff(TEXT.chars().count()) <= 12));
    }
}
