"""A study: several ways of pre-training, seeds and transfers, as one list of jobs and one page of results.

plan        what a study's config says, as runs for `rmae_d2.engine.sweep_jobs`
records     what each run measured, in one json that outlives the runs' folders
statistics  means, spreads, and differences with their intervals
page        tables and curves
"""
