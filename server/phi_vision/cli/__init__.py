"""The commands of `phi-vision`, a module each. Nothing heavy is imported until a command runs."""
