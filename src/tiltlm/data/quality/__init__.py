"""What is measured about data before any model sees it: in one pass, with sums that merge, in bounded memory."""
