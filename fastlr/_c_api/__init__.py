"""Plans of the C interface: what `plan_...` in include/fastlr/fastlr.h does."""
