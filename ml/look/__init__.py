"""The look of a person in a photo: keypoints, pose, articles. Arrays in, arrays out."""
