"""How the pipelines meet Airflow: when to run, in which order, what to retry.

The only package that may import airflow. What does not belong here: anything that reads or makes a
number (``pipelines`` does), and DAG declarations (``dags/``).
"""
