"""Language models as judges: what they are asked, how their answers are read, where they run."""
