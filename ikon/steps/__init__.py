"""Steps of jobs, one file each: what is done to an image's data between its arrival and its stores."""
