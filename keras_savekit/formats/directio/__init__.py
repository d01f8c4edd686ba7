"""Files written and read past the page cache."""
