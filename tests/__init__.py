"""Tests; a package, since Hershey-Fonts installs one of this name, which would hide a mere folder."""
