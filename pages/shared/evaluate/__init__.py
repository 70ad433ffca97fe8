"""Scores on a page: the leaderboard, differences, and the problems behind them."""
