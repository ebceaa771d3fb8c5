//! Names in both ways.

use proptest::prelude::{ProptestConfig, any, proptest};

use super::{decoded_name, encoded_name};

#[test]
fn names_are_as_people_know_them() {
    assert_eq!(encoded_name("50% of a/b\\c"), "50%25 of a%2fb%5cc");
    assert_eq!(decoded_name("a%2Fb%5Cc %252f"), "a/b\\c %2f");
    assert_eq!(decoded_name("100%"), "100%", "an old name that nobody has escaped");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_name_survives(name in "[a%/\\\\25fcFC ]{0,12}", other in any::<String>()) {
        assert_eq!(decoded_name(&encoded_name(&name)), name);
        assert_eq!(decoded_name(&encoded_name(&other)), other);
    }
}
