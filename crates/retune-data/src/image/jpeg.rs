//! Whether a JPEG file is whole. Decoders fill what is missing with grey and say nothing.

/// Whether the file's segments and scans lead to an end-of-image marker (ITU-T T.81, annex B).
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else { return false };
        match marker {
            END_OF_IMAGE => return true,
            0x01 | 0xD0..=0xD8 => {}
            _ => {
                let Some(length) = bytes.get(at..at + 2) else { return false };
                at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
            }
        }
    }
}

const END_OF_IMAGE: u8 = 0xD9;

/// The next marker from `at` on, which then stands behind it. Coded data before it is passed over: there a byte of
/// all ones is followed by a zero.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let found = bytes.get(*at..)?.iter().position(|&byte| byte == 0xFF)?;
        *at += found + 1;
        match *bytes.get(*at)? {
            0x00 => *at += 1,
            0xFF => {}
            marker => {
                *at += 1;
                return Some(marker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_complete;

    #[test]
    fn an_end_inside_a_segment_or_stuffed_data_is_no_end() {
        // A comment that holds an end marker, a scan with a stuffed byte and a restart marker, then the end.
        let whole = [
            0xFF, 0xD8, 0xFF, 0xFE, 0, 4, 0xFF, 0xD9, 0xFF, 0xDA, 0, 3, 9, 7, 0xFF, 0, 0xFF, 0xD1, 5, 0xFF,
            0xD9,
        ];
        assert!(is_complete(&whole));
        assert!((2..whole.len()).all(|length| !is_complete(&whole[..length])));
    }
}
