//! Tests of RE2 patterns: what they match, and which are refused.

use super::*;

fn pattern(text: &[u8]) -> Result<Pattern> {
    Pattern::compile(text, 1 << 20)
}

/// Checks what a pattern matches and what it does not.
fn check(text: &str, matched: &[&[u8]], missed: &[&[u8]]) {
    let pattern = pattern(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    for bytes in matched {
        assert!(pattern.matches(bytes), "{text} should match {bytes:?}: {:?}", pattern.syntax());
    }
    for bytes in missed {
        assert!(!pattern.matches(bytes), "{text} should not match {bytes:?}: {:?}", pattern.syntax());
    }
}

#[test]
fn a_pattern_matches_the_whole() {
    check("ab", &[b"ab"], &[b"abc", b"xab", b"ab\n", b""]);
    check("a|ab", &[b"a", b"ab"], &[b"abb", b""]);
    check("(a|b)+", &[b"abba"], &[b"abc", b""]);
    check("a*", &[b"", b"aaa"], &[b"b"]);
    check("", &[b""], &[b"a"]);
    check("^a$", &[b"a"], &[b"a\n"]);
}

#[test]
fn a_dot_is_any_byte_but_a_newline_and_backslash_c_is_any_byte() {
    check("a.c", &[b"abc", b"a\xffc", b"a\0c"], &[b"a\nc", b"ac"]);
    check(r"a\Cc", &[b"abc", b"a\nc", b"a\x80c"], &[b"ac"]);
    check("(?s)a.c", &[b"a\nc"], &[]);
    check(".*", &[b"", b"abc\xff"], &[b"a\nb"]);
    check(r"\C*", &[b"", b"a\nb"], &[]);
    check(r"ab.*", &[b"ab", b"abc"], &[b"a", b"ab\n", b"xab"]);
    check(r"ab\C*", &[b"ab", b"ab\n"], &[b"a"]);
    check(r"(a|b)\C*", &[b"a\n", b"b"], &[b"c"]);
}

#[test]
fn simple_patterns_need_no_automaton() {
    let syntax = |text: &[u8]| pattern(text).unwrap().syntax().clone();
    assert_eq!(syntax(b"cf1"), Syntax::Literal(b"cf1".to_vec()));
    assert_eq!(syntax(br"a\.b\-\x00\Q*.\Ec"), Syntax::Literal(b"a.b-\0*.c".to_vec()));
    assert_eq!(syntax(b"\xe9{x}"), Syntax::Literal(b"\xe9{x}".to_vec()));
    assert_eq!(syntax(b"user#.*"), Syntax::Prefix { prefix: b"user#".to_vec(), newlines: false });
    assert_eq!(syntax(br"user\#\C*"), Syntax::Prefix { prefix: b"user#".to_vec(), newlines: true });
    assert!(matches!(syntax(b"ab*"), Syntax::Regex(_)));
    assert!(matches!(syntax(b"(a).*"), Syntax::Regex(_)));
}

#[test]
fn bytes_past_ascii_are_characters() {
    let latin = pattern(b"caf\xe9+").unwrap();
    assert!(latin.matches(b"caf\xe9\xe9") && !latin.matches("café".as_bytes()));
    let class = pattern(b"[\xe0-\xff]").unwrap();
    assert!(class.matches(b"\xe9") && !class.matches(b"\xdf"));
    check(r"\xe9.", &[b"\xe9\xff"], &[b"\xe9"]);
    check("[^a]", &[b"\xff", b"\n", b"b"], &[b"a", b"", b"bb"]);
    check(r"\x{e9}?", &[b"\xe9"], &["é".as_bytes()]);
}

#[test]
fn escapes_mean_what_they_mean_to_re2() {
    check(r"\d\D\w\W+", &[b"1a_!\xff"], &[b"aa_!", b"1aa\\a"]);
    check(r"\s+", &[b" \t\n\x0c\r"], &[b"\x0b"]);
    check(r"\S", &[b"\x0b", b"a"], &[b" "]);
    check(r"[\s]", &[b" "], &[b"\x0b"]);
    check(r"[\S]", &[b"a"], &[b" "]);
    check(r"\a\f\t\n\r\v.?", &[b"\x07\x0c\t\n\r\x0b"], &[]);
    check(r"\101\012?\0", &[b"A\n\0"], &[b"A0"]);
    check(r"\<a\>+", &[b"<a>"], &[b"a"]);
    check(r"\Qa.b*\E+", &[b"a.b*", b"a.b***"], &[b"axb"]);
    check(r"\Q(\E.", &[b"(x"], &[b"x"]);
    check(r"\Aa\z|b\b", &[b"a", b"b"], &[b"c"]);
    check(r"a\x{100}|b", &[b"b"], &[b"a"]);
    check(r"(?i)ab[c]", &[b"ABC", b"abc"], &[b"abd"]);
    check(r"(?i:a)b", &[b"Ab"], &[b"AB"]);
    check(r"(?P<name>a)(?<n2>b)(c)", &[b"abc"], &[]);
}

#[test]
fn classes_mean_what_they_mean_to_re2() {
    check(r"[[a]", &[b"[", b"a"], &[b"]"]);
    check(r"[]a]", &[b"]", b"a"], &[b"["]);
    check(r"[^]a]", &[b"["], &[b"]", b"a"]);
    check(r"[a&&b]", &[b"a", b"&", b"b"], &[b"c"]);
    check(r"[a~~b]", &[b"~"], &[b"c"]);
    check(r"[+--]", &[b"+", b",", b"-"], &[b"."]);
    check(r"[a-]", &[b"a", b"-"], &[b"b"]);
    check(r"[-a]", &[b"a", b"-"], &[b"b"]);
    check(r"[a-c\-x]", &[b"b", b"-", b"x"], &[b"d"]);
    check(r"[\x00-\x1f]", &[b"\0", b"\x1f"], &[b" "]);
    check(r"[[:alpha:]_]+", &[b"aZ_"], &[b"a1"]);
    check(r"[[:^digit:]]", &[b"a", b"\xff"], &[b"1"]);
    check(r"[[:alpha:x]", &[b"[", b":", b"x"], &[b"z"]);
    check(r"[\d.]+", &[b"1.2"], &[b"a"]);
    check(r"[^\D5]+", &[b"1234"], &[b"5", b"a"]);
    check(r"[\]\\]", &[b"]", b"\\"], &[b"["]);
    check(r"[a-\x{100}]", &[b"a", b"\xff"], &[b"A"]);
    check(r"[ #]x", &[b" x", b"#x"], &[b"x"]);
}

#[test]
fn unicode_classes_are_cut_to_latin_1() {
    check(r"\pN+", &[b"123", b"\xb2"], &[b"a"]);
    check(r"\p{Lu}", &[b"A", b"\xc9"], &[b"a", b"\xe9"]);
    check(r"\PL", &[b"1", b"\xd7"], &[b"a"]);
    check(r"\p{^L}", &[b"1"], &[b"a"]);
    check(r"[\pL\d]+", &[b"a1\xe9"], &[b"!"]);
    check(r"[^\pL]", &[b"1"], &[b"a"]);
    check(r"\p{Greek}|x", &[b"x"], &[b"a"]);
}

#[test]
fn braces_that_repeat_nothing_are_characters() {
    check("a{2}", &[b"aa"], &[b"a", b"a{2}"]);
    check("a{1,}b{0,2}", &[b"aabb", b"a"], &[b"bb"]);
    check("a{,2}|x", &[b"a{,2}"], &[b"aa"]);
    check("{x}+", &[b"{x}}"], &[]);
    check("a{2", &[b"a{2"], &[b"aa"]);
    check("a{2}?b", &[b"aab"], &[]);
}

#[test]
fn what_is_not_re2_is_refused() {
    let wrong: &[&[u8]] = &[
        b"(",
        b")",
        b"a)(b",
        b"[",
        b"[a",
        b"[]",
        b"[b-a]",
        b"*",
        b"a**",
        b"a+*",
        b"a{2}{3}",
        b"a|*",
        b"(*)",
        b"\\",
        br"\1",
        br"\8",
        br"\y",
        br"\u0041",
        br"\x4",
        br"\x{}",
        br"\x{110000}",
        br"\x{zz}",
        br"\pX1",
        br"\p{Nope}",
        br"\p",
        b"(?u)a",
        b"(?x)a b",
        b"(?=a)",
        b"(?!a)",
        b"(?<=a)b",
        b"(?P<>a)",
        b"(?P<a b>a)",
        b"(?P=a)",
        b"[[:nope:]]",
        b"a{1001}",
        b"a{2,1}",
        br"[\C]",
        br"[\b]",
        br"[\Qa\E]",
        br"\b{start}*?*",
        b"(?",
    ];
    for text in wrong {
        assert!(pattern(text).is_err(), "{:?}", String::from_utf8_lossy(text));
    }
}

#[test]
fn patterns_that_take_too_much_memory_are_refused() {
    let hostile: &[&[u8]] = &[b"((a{100}){100}){100}", br"(\pL{1000}){1000}"];
    for text in hostile {
        let error = pattern(text).unwrap_err();
        assert!(error.message().contains("memory"), "{error}");
    }
    let nested = [vec![b'('; 5000], vec![b')'; 5000]].concat();
    assert!(pattern(&nested).is_err());
}

#[test]
fn any_bytes_are_a_pattern_or_are_refused() {
    use rand::{Rng, SeedableRng};
    const PIECES: [&[u8]; 30] = [
        b"a",
        b"-",
        b"[",
        b"]",
        b"(",
        b")",
        b"\\",
        b"{",
        b"}",
        b"*",
        b"+",
        b"?",
        b"|",
        b"^",
        b"$",
        b".",
        b"&&",
        b"[:alpha:]",
        b"\\C",
        b"\\Q",
        b"\\E",
        b"\\p",
        b"L",
        b"\xe9",
        b"\\x",
        b"41",
        b",",
        b"(?i",
        b":",
        b"\n",
    ];
    let mut rng = rand::rngs::StdRng::seed_from_u64(5);
    let mut compiled = 0;
    for _ in 0..10_000 {
        let text: Vec<u8> =
            (0..rng.random_range(0..9)).flat_map(|_| PIECES[rng.random_range(0..30)]).copied().collect();
        if let Ok(pattern) = Pattern::compile(&text, 1 << 18) {
            compiled += 1;
            let subject = match pattern.syntax() {
                Syntax::Literal(literal) => literal.as_slice(),
                _ => b"a-\xe9",
            };
            let literal = matches!(pattern.syntax(), Syntax::Literal(_));
            assert!(pattern.matches(subject) || !literal);
        }
    }
    assert!(compiled > 1000, "the generator makes patterns that compile: {compiled}");
}
