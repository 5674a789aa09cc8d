//! Prints the CustomResourceDefinition.
fn main() {
    print!("{}", rtc_operator_api::crd_yaml());
}
