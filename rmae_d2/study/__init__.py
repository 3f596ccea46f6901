"""A study: several pre-training methods, seeds and transfers, as one list of jobs and one page of results.

plan        a study's config as runs for `rmae_d2.engine.sweep_jobs`
records     results of each run, in one json that outlives the runs' folders
statistics  means, spreads, and differences with their intervals
page        tables and curves
"""
