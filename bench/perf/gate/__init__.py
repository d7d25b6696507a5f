"""The gate: are the steps of this revision slower, or do they hold more, than those of another? Knows no torch; its workers do."""
