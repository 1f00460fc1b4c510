use super::*;

const ALL: [Message; 5] = [
    Message::Hello { pages: 1 },
    Message::Request { page: 0x0123_4567_89ab_cdef },
    Message::Page { page: 3, sent: Sent::OnDemand },
    Message::Page { page: u64::MAX, sent: Sent::InBackground },
    Message::End { pages: 0 },
];

#[test]
fn what_is_written_is_read() {
    let mut wire = Vec::new();
    for message in ALL {
        message.write(&mut wire).unwrap();
    }
    assert_eq!(wire.len(), ALL.len() * HEAD);
    let mut input = &wire[..];
    for message in ALL {
        assert_eq!(Message::read(&mut input).unwrap(), Some(message));
    }
    assert_eq!(Message::read(&mut input).unwrap(), None, "closed between two messages");
}

#[test]
fn the_format_is_what_it_says() {
    let mut wire = Vec::new();
    Message::Request { page: 0x0102 }.write(&mut wire).unwrap();
    assert_eq!(wire, *b"SLP1\x02\0\0\0\x02\x01\0\0\0\0\0\0");
}

#[test]
fn a_page_comes_with_its_content() {
    let mut wire = Vec::new();
    write_page(&mut wire, 9, Sent::OnDemand, |content| content.fill(0x5a)).unwrap();
    assert_eq!(wire.len(), HEAD + 4096);
    let mut input = &wire[..];
    let head = Message::read(&mut input).unwrap();
    assert_eq!(head, Some(Message::Page { page: 9, sent: Sent::OnDemand }));
    let mut content = [0; PAGE_BYTES as usize];
    read_content(&mut input, &mut content).unwrap();
    assert!(input.is_empty() && content.iter().all(|&byte| byte == 0x5a));

    let mut short = &wire[HEAD..4000];
    let error = read_content(&mut short, &mut content).unwrap_err();
    assert!(matches!(error, WireError::Truncated { have: 4000 }), "{error}");
}

#[test]
fn a_bad_message_is_refused() {
    let read = |bytes: &[u8]| Message::read(&mut &bytes[..]).unwrap_err();
    let error = read(b"SLP2\x02\0\0\0\x02\x01\0\0\0\0\0\0");
    assert!(matches!(error, WireError::Magic { found } if found == *b"SLP2"), "{error}");
    for kind in [0, 6, 0xff00_0001_u32] {
        let error = read(&[&b"SLP1"[..], &kind.to_le_bytes(), &[0; 8]].concat());
        assert!(matches!(error, WireError::Kind { found } if found == kind), "{error}");
    }
    let error = read(b"SLP1\x02");
    assert!(matches!(error, WireError::Truncated { have: 5 }), "{error}");
    assert!(error.to_string().contains("5 bytes after its beginning"));
}
