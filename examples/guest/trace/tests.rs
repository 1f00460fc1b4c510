use slat::{Ept, EptCaps, Levels, LongMode, PhysWidth};

use super::*;

fn ept(levels: Levels) -> AnyFormat {
    Ept::new(levels, PhysWidth::MAX, EptCaps::USUAL).into()
}

fn read(text: impl AsRef<[u8]>) -> Result<Trace, TraceError> {
    Trace::read(text.as_ref(), ept(Levels::Four))
}

/// The number of the line that is wrong, and what is wrong with it.
fn refused(text: impl AsRef<[u8]>) -> (u64, BadLine) {
    match read(text).unwrap_err() {
        TraceError::Line { line, wrong } => (line, wrong),
        other => panic!("{other}"),
    }
}

#[test]
fn all_four_kinds_are_read_with_pages_numbered_by_address() {
    let trace = read("I  00002008,3\n S 1fff000778,8\n L 00001000,4\n M 0000200f,1\n").unwrap();
    let steps: Vec<_> = trace.steps.iter().map(|s| (s.kind, s.page, s.word)).collect();
    assert_eq!(
        steps,
        [(Kind::Fetch, 1, 1), (Kind::Store, 2, 239), (Kind::Load, 0, 0), (Kind::Modify, 1, 1)]
    );
    assert_eq!(trace.layout.gpa(2), Gpa::new(0x1f_ff00_0000));
    assert_eq!(trace.layout.len(), 3);
}

#[test]
fn an_access_across_a_page_boundary_touches_both_pages() {
    let trace = read(" S 00001ffc,8\n").unwrap();
    let steps: Vec<_> = trace.steps.iter().map(|s| (s.page, s.word)).collect();
    assert_eq!(steps, [(0, 511), (1, 0)]);
    assert_eq!(read(" S 00001ff8,8\n").unwrap().layout.len(), 1);
    assert_eq!(read(" S 00001001,4096\n").unwrap().layout.len(), 2);
}

#[test]
fn valgrinds_own_lines_are_passed_over() {
    let text = "==7== Lackey\n==7== Command: caf\u{e9}\n--7-- note\n**7** note\n\nI  00001000,3\r\n\
                ==7== \n==7== Counted 0 calls to main()\nExit code:       0\n";
    assert_eq!(read(text).unwrap().steps.len(), 1);
    let latin1 = b"==7== Command: caf\xe9\nI  00001000,3\n";
    assert_eq!(read(latin1).unwrap().steps.len(), 1);
}

#[test]
fn text_among_the_accesses_is_an_error_and_in_the_summary_is_not() {
    let stray = |text: &str| BadLine::Stray(text.to_owned());
    assert_eq!(refused("I  00001000,3\nhello\n"), (2, stray("hello")));
    assert_eq!(refused("hello\n==7==\nI  00001000,3\n"), (1, stray("hello")));
    assert_eq!(refused("==7== \nhello\nI  00001000,3\n"), (2, stray("hello")));
    // A child's summary, and then its parent goes on.
    let child = "I  00001000,3\n==8== \nExit code\nI  00002000,3\n";
    assert_eq!(read(child).unwrap().steps.len(), 2);
    assert_eq!(refused(format!("{child}Exit code\n")), (5, stray("Exit code")));
}

#[test]
fn malformed_accesses_are_errors_with_their_line() {
    let found = |text: &str| text.to_owned();
    for (text, wrong) in [
        (" X 00001000,8", BadLine::Stray(found(" X 00001000,8"))),
        ("S 00001000,8", BadLine::Stray(found("S 00001000,8"))),
        ("== 1000,8", BadLine::Stray(found("== 1000,8"))),
        (" S 00001000", BadLine::NoComma(found("00001000"))),
        (" S ,8", BadLine::Address(found(""))),
        (" S 0x1000,8", BadLine::Address(found("0x1000"))),
        (" S +1000,8", BadLine::Address(found("+1000"))),
        (" S 10000000000000000,8", BadLine::Address(found("10000000000000000"))),
        (" S 00001000,", BadLine::Size(found(""))),
        (" S 00001000,0", BadLine::Size(found("0"))),
        (" S 00001000,-8", BadLine::Size(found("-8"))),
        (" S 00001000,+8", BadLine::Size(found("+8"))),
        (" S 00001000,4097", BadLine::Size(found("4097"))),
        (" S 00001000,8,8", BadLine::Size(found("8,8"))),
        (" S 00001000,99999999999999999999", BadLine::Size(found("99999999999999999999"))),
    ] {
        let (line, found) = refused(format!("==7== \nI  00001000,3\n{text}\n"));
        assert!(line == 3 && found == wrong, "{text}: {found}");
        if !matches!(wrong, BadLine::Stray(_)) {
            // The summary excuses text, not accesses.
            assert_eq!(refused(format!("I  00001000,3\n==7== \n{text}\n")), (3, wrong), "{text}");
        }
    }
}

#[test]
fn bytes_that_are_not_text_are_shown_in_part() {
    let (line, wrong) = refused([&[0x7f, b'E', b'L', b'F', 0xff][..], &[b'x'; 5000]].concat());
    let BadLine::Stray(found) = wrong else { panic!("{wrong}") };
    assert!(line == 1 && found.starts_with("\\u{7f}ELF\u{fffd}xx") && found.len() < 100, "{found}");
}

#[test]
fn a_trace_without_accesses_is_an_error() {
    for text in ["", "\n\n", "==7== Lackey\n==7== Exit code: 0\n"] {
        assert!(matches!(read(text), Err(TraceError::Empty)), "{text:?}");
    }
}

#[test]
fn addresses_beyond_the_formats_reach_are_errors() {
    let low = " S ffffffffffff,1\n";
    let straddling = " S ffffffffffff,2\n";
    let wide = " S 1ffffffffffffff,1\n";
    let high = " S ffff800000000000,1\n";
    let whole = " S fffffffffffffff8,8\n";
    let four = |text: &str| Trace::read(text.as_bytes(), ept(Levels::Four));
    let five = |text: &str| Trace::read(text.as_bytes(), ept(Levels::Five));
    let long: AnyFormat = LongMode::new(Levels::Four, PhysWidth::MAX).into();
    let canonical = |text: &str| Trace::read(text.as_bytes(), long);
    assert!(four(low).is_ok() && five(low).is_ok() && canonical(low).is_err());
    assert!(four(straddling).is_err() && five(straddling).is_ok());
    assert!(four(wide).is_err() && five(wide).is_ok());
    assert!(four(high).is_err() && five(high).is_err() && canonical(high).is_ok());
    let last = " S ffffffffffffffff,1\n";
    assert!(canonical(whole).is_ok() && canonical(last).is_ok());
    assert!(canonical(" S fffffffffffffff9,8\n").is_err());
    let message = four(wide).unwrap_err().to_string();
    assert_eq!(
        message,
        "line 1: 1 bytes at 0x1ffffffffffffff lie beyond what 4-level ept can translate"
    );
}

#[test]
fn a_failing_reader_is_an_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    let broken = std::io::BufReader::new(Broken);
    assert!(matches!(Trace::read(broken, ept(Levels::Four)), Err(TraceError::Io { line: 1, .. })));
}
