"""The stages of the line, each module is a stage, its public function the deed."""
